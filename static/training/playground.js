// Staff ask one version or two a question and see beside each answer what it rests on. Over a websocket; nothing is kept.

const form = document.getElementById("playground");
const texts = JSON.parse(document.getElementById("playground-texts")?.textContent ?? "{}");
const percent = new Intl.NumberFormat(document.documentElement.lang || "es", {
  style: "percent",
  maximumFractionDigits: 1,
});
const CLOSE_FORBIDDEN = 4003;
// Less than this is no nearer than anything else.
const LEAST_NEAR = 0.005;
const STYLES = { said: "succeeded", written: "running", suggested: "cancelled", declined: "cancelled", failed: "failed", stopped: "queued" };

const question = document.getElementById("question");
const problem = document.getElementById("problem");
const teach = document.getElementById("teach");
const columns = new Map();
const answering = new Set();
let socket = null;

function field(column, name) {
  return column.querySelector(`[data-field="${name}"]`);
}

function addColumn(select) {
  const column = document.getElementById("column").content.cloneNode(true).firstElementChild;
  const title = field(column, "version");
  title.textContent = select.selectedOptions[0].textContent;
  title.id = `title-${select.id}`;
  column.setAttribute("aria-labelledby", title.id);
  column.setAttribute("aria-busy", "true");
  field(column, "outcome").textContent = texts.thinking;
  document.getElementById("columns").append(column);
  columns.set(select.value, column);
  answering.add(select.value);
}

function link(entry) {
  if (!entry.url) return document.createTextNode(entry.question);
  const anchor = document.createElement("a");
  anchor.href = entry.url;
  anchor.textContent = entry.question;
  return anchor;
}

function showBasis(column, frame) {
  const [first, ...rest] = frame.near ?? [];
  if (!first) return;
  const others = rest.filter((entry) => entry.probability >= LEAST_NEAR);
  field(column, "rests").hidden = false;
  field(column, "rests-label").textContent = frame.outcome === "said" ? texts.restsOn : texts.likeliest;
  field(column, "entry").append(link(first));
  field(column, "confidence").textContent = texts.confidence
    .replace("{confidence}", percent.format(first.probability))
    .replace("{threshold}", percent.format(frame.threshold));
  if (!others.length) return;
  field(column, "near").hidden = false;
  field(column, "near-label").textContent = texts.near;
  for (const entry of others) {
    const item = document.createElement("li");
    item.append(link(entry), ` · ${percent.format(entry.probability)}`);
    field(column, "near").querySelector("ul").append(item);
  }
}

function end(version, frame) {
  const column = columns.get(version);
  if (!column || !answering.delete(version)) return;
  column.removeAttribute("aria-busy");
  const outcome = field(column, "outcome");
  outcome.textContent = texts[frame.outcome];
  outcome.classList.add(`room-${STYLES[frame.outcome]}`);
  // What was written before a stop stays.
  if (frame.outcome !== "stopped") field(column, "text").textContent = frame.text;
  showBasis(column, frame);
  if (frame.near?.length && teach) suggestEntry(frame.near[0].id);
  showState();
}

function suggestEntry(id) {
  const entries = teach.querySelector("select");
  if (!entries.value && entries.querySelector(`option[value="${id}"]`)) entries.value = id;
}

function showState() {
  document.getElementById("ask").disabled = answering.size > 0;
  document.getElementById("stop").disabled = answering.size === 0;
  if (teach) teach.hidden = columns.size === 0 || answering.size > 0;
}

function refuse(text) {
  problem.textContent = text;
  document.getElementById("columns").replaceChildren();
  columns.clear();
  answering.clear();
  showState();
}

function receive(frame) {
  if (frame.type === "delta" && answering.has(frame.version)) field(columns.get(frame.version), "text").append(frame.text);
  else if (frame.type === "done") end(frame.version, frame);
  else if (frame.type === "error") refuse(frame.text);
}

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/playground/`);
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = (event) => {
    socket = null;
    if (event.code === CLOSE_FORBIDDEN) refuse(texts.forbidden);
    else for (const version of [...answering]) end(version, { outcome: "failed", text: texts.lost });
  };
}

function send(frame) {
  if (!socket) connect();
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
  else socket.addEventListener("open", () => send(frame), { once: true });
}

function ask() {
  const text = question.value.trim();
  const selects = [document.getElementById("first"), document.getElementById("second")];
  refuse("");
  for (const select of selects) if (select.value && !columns.has(select.value)) addColumn(select);
  if (teach) {
    teach.querySelector("[name=text]").value = text;
    document.getElementById("asked").textContent = text;
    teach.querySelector("select").value = "";
    document.getElementById("taught").textContent = "";
  }
  showState();
  send({ type: "ask", question: text, versions: [...columns.keys()] });
}

async function add(event) {
  event.preventDefault();
  const told = document.getElementById("taught");
  try {
    const response = await fetch(event.target.action, {
      method: "POST",
      body: new FormData(event.target),
      headers: { Accept: "application/json" },
    });
    told.textContent = response.status === 403 ? texts.forbidden : (await response.json()).text;
  } catch {
    told.textContent = texts.lost;
  }
}

if (form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!answering.size) ask();
  });
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && answering.size) send({ type: "stop" });
  });
  document.getElementById("stop").addEventListener("click", () => send({ type: "stop" }));
  teach?.querySelector("form").addEventListener("submit", add);
  question.focus();
  connect();
}
