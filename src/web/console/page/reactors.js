// The data plane's threads: how busy each is.

import { empty, h, say, set } from "./dom.js";
import { count, duration, packets, percent } from "./format.js";
import { state } from "./state.js";

export function reactorsPage(main) {
  const place = h("div", { class: "reactors" });
  main.append(
    h("h1", {}, "Reactors"),
    h("p", { class: "note" },
      "A reactor is a thread that carries frames. Polling is looking for frames in vain; in the ",
      "rest of the time it sleeps, and uses no CPU."),
    place);
  let built = -1;
  const build = () => {
    built = state.host.reactors.length;
    place.replaceChildren(...(built ? state.host.reactors.map((_, id) => one(id)) : [
      empty("Nothing is known of them yet."),
    ]));
  };
  const host = () => {
    if (built !== state.host.reactors.length) build();
    state.host.reactors.forEach((reactor, id) => show(place.children[id], reactor, state.loads[id]));
  };
  host();
  return { host };
}

const ROWS = ["Frames", "A frame takes", "vNICs and ports", "Frames so far", "Slept so often"];

function one(id) {
  return h("section", { class: "card" },
    h("h2", {}, `Reactor ${id}`),
    h("div", { class: "bar", role: "img" }, h("i", { class: "busy" }), h("i", { class: "polling" })),
    h("p", { class: "keys" },
      h("span", { class: "key from" }, "carries ", h("b")),
      h("span", { class: "key polling" }, "polls ", h("b"))),
    h("dl", { class: "facts" }, ROWS.map((title) => [h("dt", {}, title), h("dd")])));
}

function show(place, reactor, load = { busy: 0, polling: 0, frames: 0, cost: 0 }) {
  const [busy, polling] = place.querySelectorAll(".bar i");
  busy.style.setProperty("width", `${load.busy * 100}%`);
  polling.style.setProperty("width", `${load.polling * 100}%`);
  const said = [percent(load.busy), percent(load.polling)];
  place.querySelectorAll(".key b").forEach((value, at) => say(value, said[at]));
  set(place.querySelector(".bar"), "aria-label", `carries ${said[0]}, polls ${said[1]}`);
  const values = [
    packets(load.frames), load.cost ? duration(load.cost) : "–", count(reactor.nics),
    count(reactor.frames), count(reactor.sleeps),
  ];
  place.querySelectorAll("dd").forEach((value, at) => say(value, values[at]));
}
