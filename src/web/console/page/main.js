// The frame around the pages: which one is shown, whether the daemon is there, and the token.

import { keepToken } from "./ask.js";
import { h, say, set } from "./dom.js";
import { follow, state, subscribe } from "./state.js";
import { eventsPage } from "./events.js";
import { explainPage } from "./explain.js";
import { leasesPage } from "./leases.js";
import { membersPage, networkPage, networksPage } from "./network.js";
import { memberPage } from "./nic.js";
import { overviewPage } from "./overview.js";
import { reactorsPage } from "./reactors.js";

const PAGES = {
  "": ["Overview", overviewPage],
  networks: ["Networks", networksPage],
  network: ["Network", networkPage],
  members: ["vNICs and ports", membersPage],
  nic: ["vNIC", (main, name) => memberPage(main, "nic", name)],
  port: ["Port", (main, name) => memberPage(main, "port", name)],
  events: ["Events", eventsPage],
  leases: ["Leases", leasesPage],
  reactors: ["Reactors", reactorsPage],
  explain: ["Explain", explainPage],
};

const content = document.getElementById("content");
let page = null;

/** Shows the page that the address names: `#/nic/vm1`. */
function route() {
  const [, kind = "", name = ""] = location.hash.split("/");
  const [title, make] = PAGES[kind] ?? PAGES[""];
  const key = decodeURIComponent(name);
  page?.close?.();
  content.replaceChildren();
  document.title = `${key || title} · mvirt-net`;
  for (const link of document.querySelectorAll("nav a")) {
    const is = link.getAttribute("href") === `#/${kind}`;
    if (is) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  page = make(content, key) ?? {};
  window.scrollTo(0, 0);
}

function connection() {
  const place = document.getElementById("connection");
  const known = ["live", "connecting", "paused"].includes(state.connection);
  set(place, "class", known ? state.connection : "lost");
  say(place, known ? state.connection : `${state.connection}: trying again`);
}

function ailments() {
  const place = document.getElementById("degraded");
  const ails = state.host.version.degraded ?? [];
  const said = ails.join("\n");
  place.hidden = ails.length === 0;
  if (place.dataset.said === said) return;
  place.dataset.said = said;
  place.replaceChildren(...ails.map((text) => h("p", {}, text)));
}

/** Asks for the token of --http-token. */
function locked() {
  return new Promise((done) => {
    const token = h("input", {
      type: "password", autocomplete: "off", required: true, "aria-label": "Token", size: 40,
    });
    const dialog = h("dialog", { class: "card", cancel: (event) => event.preventDefault() },
      h("form", {
        submit: (event) => {
          event.preventDefault();
          keepToken(token.value.trim());
          dialog.remove();
          done();
        },
      },
      h("h2", {}, "Token"),
      h("p", {}, "This console is shown to those who know its token, the line in the file of --http-token."),
      token, " ", h("button", {}, "Open")));
    document.body.append(dialog);
    dialog.showModal();
  });
}

subscribe((what) => {
  if (what === "connection") connection();
  else if (what === "host") ailments();
  page?.[what]?.();
});
window.addEventListener("hashchange", () => {
  // The link that skips the navigation is no page.
  if (location.hash === "#content") return;
  route();
  content.focus({ preventScroll: true });
});
connection();
route();
follow(locked);
