// What the daemon has told: networks, vNICs and ports, what they carry, and how the daemon is.
// One stream tells it all; nothing is asked for while the page is hidden.

import { events, Refused } from "./ask.js";

/** Seconds that are remembered. */
export const SECONDS = 120;
/** How long a hidden page goes on, so that who looks elsewhere for a moment misses nothing. */
const GRACE = 15_000;
/** Rates over the last seconds, the latest one last. */
class History {
  constructor() {
    this.from = new Array(SECONDS).fill(null);
    this.to = new Array(SECONDS).fill(null);
    this.drops = new Array(SECONDS).fill(null);
  }

  push(rate) {
    for (const name of ["from", "to", "drops"]) {
      this[name].shift();
      this[name].push(rate[name]);
    }
  }
}

const NOTHING = Object.freeze({ from: 0, to: 0, framesFrom: 0, framesTo: 0, drops: 0 });
const NO_DROPS = Object.freeze(new Map());

/** A vNIC or a port, as the pages show them. */
class Member {
  constructor(kind, object) {
    this.kind = kind;
    this.id = object.id;
    // A stream that begins anew takes up where the last one has ended.
    this.history = state.members.get(object.id)?.history ?? null;
    this.rate = NOTHING;
    this.drops = NO_DROPS;
    this.tell(object);
  }

  tell(object) {
    this.object = object;
    this.name = object.name;
    this.network = object.network_name ?? "";
    const tagged = (object.vlans ?? []).map(({ network_name }) => network_name);
    this.networks = [...new Set([this.network, ...tagged])];
    const prefix = this.kind === "nic" ? "NIC_STATE_" : "PORT_STATE_";
    this.state = (object.state ?? "").replace(prefix, "").toLowerCase();
    this.error = object.error ?? "";
    const { ipv4_address = "", ipv6_address = "", locator = "" } = object;
    this.address = this.kind === "nic" ? ipv4_address || ipv6_address : locator;
    this.href = `#/${this.kind}/${encodeURIComponent(object.name)}`;
    const words = [this.name, this.network, this.state, ipv4_address, ipv6_address, locator];
    this.text = [...words, object.mac_address ?? "", object.description ?? ""]
      .join(" ").toLowerCase();
  }

  /** Takes what has come to it within so many seconds: nothing, where it is not told. */
  count(stats, seconds) {
    if (stats) {
      const rate = (name) => (stats[name] ?? 0) / seconds;
      this.drops = new Map((stats.drops ?? []).map(({ reason, frames }) => [reason, frames / seconds]));
      this.rate = {
        from: rate("ingress_octets") * 8,
        to: rate("egress_octets") * 8,
        framesFrom: rate("ingress_frames"),
        framesTo: rate("egress_frames"),
        drops: [...this.drops.values()].reduce((all, each) => all + each, 0),
      };
      this.history ??= new History();
    } else {
      this.rate = NOTHING;
      this.drops = NO_DROPS;
    }
    this.history?.push(this.rate);
  }
}

/** What is known. */
export const state = {
  networks: new Map(),
  members: new Map(),
  host: { version: {}, reactors: [] },
  /** What reactors did within the last second. */
  loads: [],
  total: NOTHING,
  history: new History(),
  /** Of each second in the histories. */
  times: Array.from({ length: SECONDS }, (_, at) => Date.now() / 1000 - SECONDS + 1 + at),
  connection: "connecting",
};

const listeners = new Set();

/** Has `heard(what)` called: "objects", "tick" each second, "connection". Returns how to end that. */
export function subscribe(heard) {
  listeners.add(heard);
  return () => listeners.delete(heard);
}

function tell(what) {
  for (const heard of [...listeners]) heard(what);
}

/** All vNICs and ports, of one network if it is named. */
export function members(network = "") {
  const all = [...state.members.values()];
  return network ? all.filter(({ networks }) => networks.includes(network)) : all;
}

/** vNICs and ports by the names of their networks: a trunk is in several. */
export function byNetwork() {
  const by = new Map();
  for (const member of members()) {
    for (const name of member.networks) {
      if (!by.has(name)) by.set(name, []);
      by.get(name).push(member);
    }
  }
  return by;
}

/** A vNIC or port by its kind and name. */
export function find(kind, name) {
  return members().find((member) => member.kind === kind && member.name === name);
}

/** A network by its name. */
export function findNetwork(name) {
  return [...state.networks.values()].find((network) => network.name === name);
}

/** What one stream has told so far; taken over once it has told all there is. */
class Session {
  constructor() {
    this.networks = new Map();
    this.members = new Map();
    this.unsynced = new Set(["network", "nic", "port"]);
    this.parts = [];
    this.told = null;
    this.due = false;
  }

  heard(name, data) {
    if (name === "stats") this.count(data);
    else if (name === "host") this.host(data);
    else if (data.synced) this.synced(name);
    else this.change(name, data);
  }

  synced(name) {
    this.unsynced.delete(name);
    if (this.unsynced.size) return;
    Object.assign(state, {
      networks: this.networks,
      members: this.members,
      connection: "live",
    });
    tell("connection");
    tell("objects");
  }

  change(kind, event) {
    const id = event[`${kind}_id`];
    const object = event[kind];
    if (kind === "network") {
      if (object) this.networks.set(id, object);
      else this.networks.delete(id);
    } else if (!object) {
      this.members.delete(id);
    } else if (this.members.has(id)) {
      this.members.get(id).tell(object);
    } else {
      this.members.set(id, new Member(kind, object));
    }
    // Of many that change at once pages are told once.
    if (this.unsynced.size || this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      tell("objects");
    });
  }

  count(update) {
    this.parts.push(...(update.stats ?? []));
    if (update.continues) return;
    const told = new Map(this.parts.map((stats) => [stats.nic_id, stats]));
    this.parts = [];
    // Of what is not known yet nothing is shown.
    if (this.unsynced.size) return;
    const total = { ...NOTHING };
    for (const member of this.members.values()) {
      member.count(told.get(member.id), update.elapsed_ns / 1e9);
      for (const name of Object.keys(total)) total[name] += member.rate[name];
    }
    state.total = total;
    state.history.push(total);
    state.times.shift();
    state.times.push(Date.now() / 1000);
    tell("tick");
  }

  host(host) {
    const now = performance.now();
    const { told } = this;
    if (told) {
      const ns = (now - told.at) * 1e6;
      state.loads = (host.reactors ?? []).map((reactor, at) => {
        const before = told.reactors[at] ?? {};
        const come = (name) => Math.max(0, (reactor[name] ?? 0) - (before[name] ?? 0));
        return {
          busy: Math.min(1, come("busy_ns") / ns),
          polling: Math.min(1, come("polling_ns") / ns),
          frames: (come("frames") / ns) * 1e9,
          cost: come("frames") ? come("busy_ns") / come("frames") : 0,
        };
      });
    }
    this.told = { at: now, reactors: host.reactors ?? [] };
    state.host = { version: {}, reactors: [], ...host };
    tell("host");
  }
}

/** Follows the daemon for as long as there is a page to show it. `locked` is called for a token. */
export async function follow(locked) {
  let wait = 1000;
  for (;;) {
    await visible();
    const ending = new AbortController();
    const unwatch = whenHidden(() => ending.abort());
    const session = new Session();
    let why = "the daemon has ended the connection";
    try {
      await events("live", (name, data) => {
        wait = 1000;
        session.heard(name, data);
      }, ending.signal);
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        unwatch();
        await locked();
        continue;
      }
      why = error instanceof Refused ? error.message : "the daemon cannot be reached";
    }
    unwatch();
    state.connection = document.hidden ? "paused" : why;
    tell("connection");
    if (!document.hidden) await new Promise((done) => setTimeout(done, wait));
    wait = Math.min(wait * 2, 10_000);
  }
}

function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((done) => {
    document.addEventListener("visibilitychange", () => done(), { once: true });
  });
}

function whenHidden(act) {
  let timer = 0;
  const changed = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(act, GRACE);
  };
  document.addEventListener("visibilitychange", changed);
  return () => {
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", changed);
  };
}
