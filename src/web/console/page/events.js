// What has happened: on a page of its own, and on the page of a vNIC or port what happened to that.

import { get } from "./ask.js";
import { h } from "./dom.js";
import { word } from "./format.js";
import { state } from "./state.js";
import { Table } from "./table.js";

/** Events of a list. The daemon has more: `mvirt watch --since all`. */
const MOST = 500;

const COLUMNS = [
  { title: "Time", value: ({ at }) => at, cell: ({ time }) => time, sort: -1 },
  { title: "Severity", value: (it) => it.severity,
    cell: (it) => [it.severity === "info" ? "quiet" : "bad", it.severity] },
  { title: "Kind", class: "mono", value: (it) => it.kind },
  { title: "Object", value: ({ name }) => name, link: true },
  { title: "What", class: "text", value: (it) => it.what },
];

/** The last events of some kind or object, the newest first; what comes, whenever it looks. */
export class Events {
  constructor(label, { most = MOST, filter = true } = {}) {
    this.table = new Table(label, COLUMNS, { filter, nothing: "Nothing has happened yet." });
    this.element = this.table.element;
    this.most = most;
    this.fields = null;
    this.kept = [];
    this.isAsking = false;
  }

  close() {
    this.table.close();
  }

  /** Shows those that `/api/events` has for these fields. */
  of(fields) {
    this.fields = fields;
    this.kept = [];
    this.look();
  }

  async look() {
    const { fields, kept } = this;
    if (!fields || this.isAsking || state.connection !== "live") return;
    this.isAsking = true;
    // What came after the last one.
    const since = kept.at(-1)?.time ?? "";
    const found = await get("events", { ...fields, since, last: this.most }).catch(() => null);
    this.isAsking = false;
    if (this.kept !== kept) {
      // Others are wanted by now.
      this.look();
    } else if (found) {
      const come = found.events;
      kept.push(...come);
      kept.splice(0, kept.length - this.most);
      if (come.length || !since) this.show();
    }
  }

  /** Shows what is known, with the names that objects have now. */
  show() {
    this.table.update(this.kept.map(row));
  }
}

function row({ time, severity, kind, object_ids, text, details }, at) {
  const [nearest] = object_ids;
  const member = state.members.get(nearest);
  const network = state.networks.get(nearest);
  const name = (member ?? network)?.name ?? details.nic ?? details.port ?? details.name ?? "";
  // What the text does not say already.
  const more = Object.entries(details).filter(([, value]) => !text.includes(value));
  const it = {
    severity: word(severity, "SEVERITY_"), kind, name,
    what: [text, ...more.map(([key, value]) => `${key}=${value}`)].join(" · "),
  };
  return {
    ...it, at, key: time, time: new Date(time).toLocaleString(),
    href: member?.href ?? (network && `#/network/${encodeURIComponent(network.name)}`),
    text: Object.values(it).join(" ").toLowerCase(),
  };
}

/** All events. */
export function eventsPage(main) {
  const events = new Events("Events");
  const every = h("option", { value: "" }, "every kind");
  const kinds = h("select", {
    "aria-label": "Kind", change: () => events.of({ kind: kinds.value }),
  }, every);
  events.table.input.before(kinds);
  events.element.classList.add("tall");
  main.append(h("h1", {}, "Events"), h("section", { class: "card" }, events.element));
  const connection = async () => {
    events.look();
    if (kinds.length > 1 || state.connection !== "live") return;
    const { event_kinds } = await get("event_kinds").catch(() => ({ event_kinds: [] }));
    kinds.replaceChildren(every, ...event_kinds.map((kind) => h("option", {}, kind)));
  };
  events.of({});
  connection();
  return {
    connection,
    objects: () => events.show(),
    tick: () => events.look(),
    close: () => events.close(),
  };
}
