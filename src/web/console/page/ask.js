// Asks the daemon, with what it has to be told: our header, and the token where there is one.

const TOKEN = "token";

/** Why the daemon does not answer as it was asked. */
export class Refused extends Error {
  constructor(status, why) {
    super(why);
    this.status = status;
  }
}

/** Keeps a token for as long as the tab is open. */
export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

export async function request(path, fields = {}, signal = undefined) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    for (const each of [value].flat()) if (each !== "") query.append(name, each);
  }
  const headers = { "Mvirt-Console": "1" };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  const asked = query.size ? `api/${path}?${query}` : `api/${path}`;
  const answer = await fetch(asked, { headers, signal, cache: "no-store" });
  if (!answer.ok) throw new Refused(answer.status, (await answer.text()).trim());
  return answer;
}

/** Returns a message of the API. */
export async function get(path, fields) {
  return (await request(path, fields)).json();
}

/** Returns all objects of a list, page by page. */
export async function all(path, fields = {}) {
  const found = [];
  let page_token = "";
  do {
    const page = await get(path, { ...fields, page_token });
    found.push(...page[path]);
    page_token = page.next_page_token;
  } while (page_token);
  return found;
}

/** Calls `heard(name, data)` with each event, until the stream or the signal ends it. */
export async function events(path, heard, signal) {
  const answer = await request(path, {}, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const at = block.indexOf("\ndata: ");
      heard(block.slice("event: ".length, at), JSON.parse(block.slice(at + "\ndata: ".length)));
    }
  }
}
