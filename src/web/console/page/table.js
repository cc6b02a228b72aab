// A table of any length: of thousands of rows it makes those that are seen. Headings sort; the
// arrow keys, Home, End and Page keys choose a row, and Enter opens it.

import { h, say, set } from "./dom.js";

/** Pixels of a row, as console.css has it. */
const ROW = 36;

/**
 * Columns are `{ title, value(row), cell(row)?, class?, sort?: 1 | -1 }`: `value` sorts and, without
 * `cell`, is shown; `cell` returns text, or a list of a class and text. A row has an `href`, to which
 * the first column leads, or the one with `link`; and a `key`, where others lead there, too.
 */
export class Table {
  constructor(label, columns, { filter = true, nothing = "Nothing here yet." } = {}) {
    this.columns = columns;
    this.link = Math.max(0, columns.findIndex(({ link }) => link));
    this.by = columns.findIndex((column) => column.sort);
    this.descends = columns[this.by]?.sort === -1;
    this.rows = [];
    this.shown = [];
    this.chosen = -1;
    this.first = -1;
    this.nothing = nothing;
    this.body = h("tbody");
    this.above = h("tr", { "aria-hidden": "true" }, h("td", { colspan: columns.length }));
    this.below = h("tr", { "aria-hidden": "true" }, h("td", { colspan: columns.length }));
    this.headings = columns.map((column, at) => h("th", { scope: "col", class: column.class },
      h("button", { type: "button", click: () => this.sort(at) }, column.title)));
    this.table = h("table", { "aria-label": label },
      h("thead", {}, h("tr", {}, this.headings)), this.body);
    this.scroll = h("div", {
      class: "scroll", tabindex: "0", role: "group", "aria-label": `${label}: rows`,
      scroll: () => this.draw(), keydown: (event) => this.key(event),
    }, this.table);
    this.message = h("p", { class: "empty" }, nothing);
    this.count = h("span", { class: "count", role: "status" });
    this.input = h("input", {
      type: "search", placeholder: "Filter", "aria-label": `Filter ${label}`,
      input: () => this.update(this.rows),
    });
    this.element = h("div", { class: "list" },
      filter ? h("div", { class: "filter" }, this.input, this.count) : null, this.scroll, this.message);
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.scroll);
  }

  close() {
    this.observer.disconnect();
  }

  sort(at) {
    if (this.by === at) this.descends = !this.descends;
    else [this.by, this.descends] = [at, this.columns[at].class === "number"];
    this.update(this.rows);
  }

  /** Shows these rows. */
  update(rows) {
    this.rows = rows;
    const keyOf = (row) => row?.key ?? row?.href;
    const chosen = keyOf(this.shown[this.chosen]);
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => words.every((word) => row.text.includes(word));
    this.shown = words.length ? rows.filter(fits) : [...rows];
    const column = this.columns[this.by];
    if (column) {
      const way = this.descends ? -1 : 1;
      const keyed = this.shown.map((row) => [column.value(row), row]);
      keyed.sort(([a, one], [b, other]) => way * compare(a, b) || compare(one.name, other.name));
      this.shown = keyed.map(([, row]) => row);
    }
    this.chosen = chosen ? this.shown.findIndex((row) => keyOf(row) === chosen) : -1;
    this.headings.forEach((heading, at) => {
      const order = this.descends ? "descending" : "ascending";
      if (at === this.by) set(heading, "aria-sort", order);
      else heading.removeAttribute("aria-sort");
    });
    say(this.count, words.length ? `${this.shown.length} of ${rows.length}` : `${rows.length}`);
    this.scroll.hidden = this.shown.length === 0;
    this.message.hidden = this.shown.length > 0;
    say(this.message, rows.length ? "Nothing has all of these words." : this.nothing);
    set(this.table, "aria-rowcount", this.shown.length + 1);
    this.draw();
  }

  /** Makes, or fills anew, the rows that are seen. */
  draw() {
    const height = this.scroll.clientHeight || ROW * 20;
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - 4);
    const end = Math.min(this.shown.length, first + Math.ceil(height / ROW) + 8);
    const lines = [...this.body.children].slice(1, -1);
    while (lines.length < end - first) lines.push(this.line());
    lines.length = Math.max(0, end - first);
    this.above.firstChild.style.setProperty("height", `${first * ROW}px`);
    this.below.firstChild.style.setProperty("height", `${(this.shown.length - end) * ROW}px`);
    if (this.body.children.length !== lines.length + 2) {
      this.body.replaceChildren(this.above, ...lines, this.below);
    }
    lines.forEach((line, at) => this.put(line, first + at));
  }

  line() {
    const cells = this.columns.map((column, at) => h("td", { class: column.class },
      at === this.link ? h("a", { tabindex: "-1" }) : h("span")));
    return h("tr", {
      click: (event) => {
        if (!event.target.closest("a")) event.currentTarget.querySelector("a").click();
      },
    }, cells);
  }

  put(line, at) {
    const row = this.shown[at];
    set(line, "aria-rowindex", at + 2);
    set(line, "class", at === this.chosen ? "chosen" : at % 2 ? "odd" : "even");
    this.columns.forEach((column, number) => {
      const place = line.children[number].firstChild;
      const said = column.cell ? column.cell(row) : column.value(row);
      const [kind, text] = Array.isArray(said) ? said : ["", said];
      say(place, String(text));
      set(place, "class", kind);
      if (number === this.link) {
        if (row.href) set(place, "href", row.href);
        else place.removeAttribute("href");
      }
    });
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / ROW) - 2);
    const last = this.shown.length - 1;
    const to = {
      ArrowDown: this.chosen + 1, ArrowUp: this.chosen - 1, Home: 0, End: last,
      PageDown: this.chosen + page, PageUp: this.chosen - page,
    }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      this.chosen = Math.min(last, Math.max(0, to));
      const top = this.chosen * ROW;
      const { scrollTop, clientHeight } = this.scroll;
      if (top < scrollTop) this.scroll.scrollTop = top;
      // A heading sticks above the rows.
      if (top + 2 * ROW > scrollTop + clientHeight) this.scroll.scrollTop = top + 2 * ROW - clientHeight;
      this.draw();
    } else if (event.key === "Enter" && this.shown[this.chosen]?.href) {
      location.hash = this.shown[this.chosen].href;
    }
  }
}

const collator = new Intl.Collator("en", { numeric: true });

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b);
}
