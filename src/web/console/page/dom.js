// Makes elements. What others chose becomes text, and never anything else: all of it goes through
// here, and nothing here reads HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  const nothing = [null, undefined, false, ""];
  element.append(...children.flat(2).filter((child) => !nothing.includes(child)));
  return element;
}

/** Makes an element; attributes that are functions listen to the event of their name. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Makes one of SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Sets an element's text, if it is another one: what is selected stays so. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets an attribute, if it is another one. */
export function set(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** A card with a title. */
export function card(title, ...children) {
  return h("section", { class: "card" }, h("h2", {}, title), ...children);
}

/** Pairs of a name and what is said of it; pairs without a value are left out. */
export function facts(pairs) {
  const said = pairs.filter(([, value]) => value !== "" && value !== undefined && value !== null);
  return h("dl", { class: "facts" }, said.map(([name, value]) => [
    h("dt", {}, name),
    h("dd", {}, value),
  ]));
}

/** The state of a vNIC or port: a dot and a word. */
export function stateOf(member) {
  return h("span", { class: `state ${member.state}` }, member.state);
}

/** What is said where there is nothing to show. */
export function empty(text) {
  return h("p", { class: "empty" }, text);
}
