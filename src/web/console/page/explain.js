// What would become of a packet: asked of the packet path itself, and nothing is sent.

import { get } from "./ask.js";
import { card, empty, h } from "./dom.js";
import { word } from "./format.js";
import { find, members } from "./state.js";

export function explainPage(main, from) {
  const input = (name, attributes) => h("input", { name, id: `explain-${name}`, ...attributes });
  const field = (title, control, hint = "") => h("label", {}, h("span", {}, title), control,
    hint && h("small", {}, hint));
  const names = h("datalist", { id: "names" });
  const protocol = h("select", { name: "protocol", id: "explain-protocol" },
    ["tcp", "udp", "icmp"].map((name) => h("option", {}, name)));
  const port = input("destination_port", { type: "number", min: "1", max: "65535", value: "80" });
  protocol.addEventListener("change", () => {
    port.disabled = protocol.value === "icmp";
  });
  const answer = h("div", { "aria-live": "polite" });
  const ask = h("button", {}, "Explain");
  const form = h("form", {
    submit: async (event) => {
      event.preventDefault();
      ask.disabled = true;
      const fields = Object.fromEntries(new FormData(form));
      try {
        answer.replaceChildren(told(await get("explain", fields)));
      } catch (error) {
        answer.replaceChildren(h("p", { class: "refused" }, error.message));
      }
      ask.disabled = false;
    },
  },
  field("From", input("from", { list: "names", required: true, value: from, autocomplete: "off" }),
    "a vNIC or port"),
  field("To", input("destination", { required: true, placeholder: "10.0.0.2", autocomplete: "off" }),
    "an address"),
  field("Protocol", protocol),
  field("Port", port),
  field("Source", input("source", { placeholder: "its own", autocomplete: "off" })),
  field("Octets", input("length", { type: "number", min: "0", max: "65535", placeholder: "few" })),
  ask);
  main.append(
    h("h1", {}, "Explain"),
    h("p", { class: "note" },
      "What would become of a packet, if a guest sent it now. Nothing is sent, counted or learned."),
    h("section", { class: "card explain" }, names, form), answer);
  const objects = () => {
    // A list of thousands is none to choose from.
    const some = members().slice(0, 200);
    names.replaceChildren(...some.map(({ name, network }) => h("option", { value: name }, network)));
  };
  objects();
  return { objects };
}

function told(reply) {
  const verdict = word(reply.verdict, "EXPLAIN_VERDICT_");
  const to = reply.delivered_to ?? [];
  const why = [
    to.length && `to ${to.slice(0, 8).join(", ")}${to.length > 8 ? ` and ${to.length - 8} more` : ""}.`,
    reply.drop_text, reply.sender_is_told && "Its sender is told by an ICMP error.",
  ];
  const steps = (reply.steps ?? []).map(({ stage, object, result, text }) => h("li", {
    class: result === "passed" ? "passed" : "dropped",
  }, h("b", {}, stage), object && h("span", { class: "object" }, link(object)),
  result !== "passed" && h("code", {}, result), h("p", {}, text)));
  return card("What would become of it",
    h("p", { class: "verdict" }, h("strong", { class: verdict }, verdict), " ", why.filter(Boolean).join(" ")),
    steps.length ? h("ol", { class: "steps" }, steps) : empty("It has no steps."));
}

function link(name) {
  const member = find("nic", name) ?? find("port", name);
  return member ? h("a", { href: member.href }, name) : name;
}
