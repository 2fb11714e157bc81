// Requests to the server. Every failure is an Error whose message is a sentence.
const inPage = document.querySelector('meta[name="actseq-token"]').content;
const token = inPage || location.hash.slice(1);

// A text with a capital and a full stop; a name such as kick.wav keeps its letters.
export function sentence(text) {
  const words = String(text).trim();
  const capital = /^[a-z]+(?=\s)/.test(words) ? words.charAt(0).toUpperCase() + words.slice(1) : words;
  return capital + (/[.!?…]$/.test(words) ? "" : ".");
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { "X-Actseq-Token": token, ...options.headers } });
  } catch {
    throw new Error("The server does not answer: is actseq explore still running?");
  }
  if (answer.ok) return answer;
  const reason = await answer.json().catch(() => ({}));
  throw new Error(sentence(reason.error || "the server has failed"));
}

export const read = async (path) => (await ask(path)).json();
export const bytes = async (path) => (await ask(path)).arrayBuffer();
export const blob = async (path) => (await ask(path)).blob();

function posted(path, order) {
  return ask(path, {
    method: "POST",
    body: JSON.stringify(order),
    headers: { "Content-Type": "application/json" },
  });
}

export const post = async (path, order = {}) => (await posted(path, order)).json();

export async function send(file) {
  const headers = { "Content-Type": "application/octet-stream", "X-File-Name": encodeURIComponent(file.name) };
  return (await ask("/api/sounds", { method: "POST", body: file, headers })).json();
}

// The messages of a sound that is being made, one JSON object a line.
export async function* messages(path, order) {
  const reader = (await posted(path, order)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const message = JSON.parse(line);
      if (message.kind === "error") throw new Error(sentence(message.error));
      yield message;
    }
  }
}
