// Numbers and times for people.

const SCALES = ["", "k", "M", "G", "T", "P"];

function scaled(value, unit) {
  let at = 0;
  while (Math.abs(value) >= 999.5 && at < SCALES.length - 1) {
    value /= 1000;
    at += 1;
  }
  const digits = at === 0 && Number.isInteger(value) ? 0 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  const space = unit || SCALES[at] ? "\u202f" : "";
  return `${value.toFixed(digits)}${space}${SCALES[at]}${unit}`;
}

export const bits = (value) => scaled(Math.round(value), "bit/s");
export const packets = (value) => scaled(Math.round(value * 10) / 10, "/s");
export const frames = (value) => `${scaled(Math.round(value * 10) / 10, "")} frames/s`;
export const octets = (value) => scaled(value, "B");
export const duration = (ns) => {
  const [value, unit] = ns < 1e3 ? [ns, "ns"] : ns < 1e6 ? [ns / 1e3, "µs"] : [ns / 1e6, "ms"];
  return `${value.toFixed(value < 10 && unit !== "ns" ? 1 : 0)}\u202f${unit}`;
};
export const count = (value) => Math.round(value ?? 0).toLocaleString("en-US");
export const percent = (share) => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)}\u202f%`;

/** How long ago a time was. */
export function ago(time) {
  if (!time) return "";
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * length) return `${Math.floor(seconds / length)} ${unit} ago`;
  }
  return seconds < 2 ? "just now" : `${Math.floor(seconds)} s ago`;
}

/** A time as the reader's clock has it, and how long ago it was. */
export function when(time) {
  return time ? `${new Date(time).toLocaleString()} (${ago(time)})` : "";
}

/** A word of an enum without what all of its words begin with: NETWORK_KIND_ROUTED, routed. */
export function word(value, prefix) {
  const said = (value ?? "").replace(prefix, "").toLowerCase().replaceAll("_", " ");
  return said === "unspecified" ? "" : said;
}

/** One or many. */
export const counted = (many, noun) => `${count(many)} ${noun}${many === 1 ? "" : "s"}`;
