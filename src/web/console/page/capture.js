// A capture as a file: what of, for how long, and how it goes.

import { request } from "./ask.js";
import { h, say } from "./dom.js";
import { octets } from "./format.js";

/** Makes the button that asks for one, of `{ target }` or of `{ network }`. */
export function captureButton(of) {
  const [name] = Object.values(of);
  return h("button", { type: "button", class: "button", click: () => open(name, of) }, "Capture");
}

function open(name, of) {
  const ending = new AbortController();
  const progress = h("p", { class: "note", role: "status" });
  const input = (title, field, attributes) => h("label", {}, h("span", {}, title),
    h("input", { name: field, ...attributes }));
  const start = h("button", {}, "Start");
  const close = () => {
    ending.abort();
    dialog.close();
  };
  const form = h("form", {
    submit: async (event) => {
      event.preventDefault();
      start.disabled = true;
      const fields = { ...of, ...Object.fromEntries(new FormData(form)) };
      try {
        await download(name, fields, ending.signal, (got) => {
          say(progress, `${octets(got)} so far; it ends after ${fields.seconds} s.`);
        });
        say(progress, "It is with your downloads.");
      } catch (error) {
        say(progress, ending.signal.aborted ? "" : `It failed: ${error.message}`);
      }
      start.disabled = false;
    },
  },
  h("h2", {}, `Capture ${name}`),
  h("p", { class: "note" }, "Frames, with what becomes of each, as pcapng for Wireshark."),
  input("Filter", "filter", { placeholder: "all; like: tcp port 80", size: "32", autocomplete: "off" }),
  input("Seconds", "seconds", { type: "number", min: "1", max: "300", value: "10", required: true }),
  input("Frames at most", "packets", { type: "number", min: "1", max: "10000000", value: "100000", required: true }),
  progress,
  h("p", { class: "actions" }, start, " ",
    h("button", { type: "button", class: "plain", click: close }, "Close")));
  const dialog = h("dialog", {
    class: "card", close: () => {
      ending.abort();
      dialog.remove();
    },
  }, form);
  // Of the page that it was asked for on.
  window.addEventListener("hashchange", close, { once: true });
  document.body.append(dialog);
  dialog.showModal();
}

async function download(name, fields, signal, heard) {
  const answer = await request("capture", fields, signal);
  const reader = answer.body.getReader();
  const parts = [];
  let got = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    got += value.length;
    heard(got);
  }
  const file = URL.createObjectURL(new Blob(parts, { type: "application/x-pcapng" }));
  const link = h("a", { href: file, download: `${name}.pcapng` });
  link.click();
  // It is read by then.
  setTimeout(() => URL.revokeObjectURL(file), 60_000);
}
