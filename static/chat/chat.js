// The chat page: one conversation over one websocket. The server's stored messages are the truth; this draws them.

const texts = JSON.parse(document.getElementById("texts").textContent);
const maxChars = JSON.parse(document.getElementById("max-chars").textContent);
const $ = (id) => document.getElementById(id);
const language = document.documentElement.lang;

const STORED = "chat.conversation";
const DRAFT = "chat.draft";
const PING_MS = 20_000;
const SILENCE_MS = 45_000;
const BANNER_MS = 2_000;

const messages = new Map(); // message id -> {id, role, text, seq, finish_reason, client_id}
const unsent = new Map(); // client id -> text, until the server has stored it
let socket = null;
let isReady = false;
let attempts = 0;
let reconnectTimer = 0;
let bannerTimer = 0;
let lastHeardAt = 0;
let isLive = null;

// Connection

function connect() {
  clearTimeout(reconnectTimer);
  if (socket && socket.readyState <= WebSocket.OPEN) return;
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const opened = new WebSocket(`${scheme}://${location.host}/ws/chat/`);
  socket = opened;
  lastHeardAt = Date.now();
  opened.onopen = () => opened.send(JSON.stringify({ type: "start", language, ...conversation }));
  opened.onmessage = (event) => {
    lastHeardAt = Date.now();
    receive(JSON.parse(event.data));
  };
  opened.onclose = () => {
    if (socket !== opened) return;
    socket = null;
    isReady = false;
    attempts += 1;
    bannerTimer ||= setTimeout(() => showBanner(texts.offline), BANNER_MS);
    const delay = Math.min(30_000, 1_000 * 2 ** Math.min(attempts, 5)) * (0.5 + Math.random() / 2);
    reconnectTimer = setTimeout(connect, delay);
  };
}

function send(frame) {
  if (socket?.readyState === WebSocket.OPEN && isReady) socket.send(JSON.stringify(frame));
}

function reconnectNow() {
  if (document.visibilityState !== "visible") return;
  if (Date.now() - lastHeardAt > SILENCE_MS) socket?.close();
  if (!socket || socket.readyState > WebSocket.OPEN) {
    socket = null;
    connect();
  } else {
    send({ type: "resume" });
  }
}

for (const name of ["online", "pageshow"]) addEventListener(name, reconnectNow);
document.addEventListener("visibilitychange", reconnectNow);
setInterval(() => {
  if (socket && Date.now() - lastHeardAt > SILENCE_MS) socket.close();
  else send({ type: "ping" });
}, PING_MS);

// A browser may forbid a page to store anything; then the conversation lasts as long as the page.

function remember(storage, name, value) {
  try {
    if (value === null) window[storage].removeItem(name);
    else window[storage].setItem(name, value);
  } catch {
    // Nothing to be done.
  }
}

function recall(storage, name) {
  try {
    return window[storage].getItem(name);
  } catch {
    return null;
  }
}

let conversation = JSON.parse(recall("localStorage", STORED)) ?? {};

// Frames

function receive(frame) {
  switch (frame.type) {
    case "ready":
      isReady = true;
      attempts = 0;
      connected();
      showStatus(frame.status);
      for (const message of frame.messages) put(message);
      for (const [clientId, text] of unsent) send({ type: "message", client_id: clientId, text });
      break;
    case "conversation":
      conversation = { conversation: frame.conversation, token: frame.token };
      remember("localStorage", STORED, JSON.stringify(conversation));
      break;
    case "message":
    case "done":
      put(frame.message);
      if (frame.type === "done") announce([frame.message.text, ...(frame.message.suggestions ?? [])].join(" "));
      break;
    case "waiting":
      showPlace(frame);
      break;
    case "delta":
      append(frame);
      break;
    case "status":
    case "pong":
      showStatus(frame.status);
      break;
    case "error":
      refused(frame);
      break;
  }
}

function append({ message_id: id, seq, text }) {
  const message = messages.get(id);
  if (message && seq <= message.seq) return;
  if (!message || seq !== message.seq + 1) {
    send({ type: "resume" });
    return;
  }
  put({ ...message, seq, text: message.text + text });
}

function showPlace({ message_id: id, place }) {
  const message = messages.get(id);
  if (!message || message.text || message.finish_reason) return;
  const note = place ? texts.waiting.replace("%(place)s", place) : timeOf(message.at);
  $(`message-${id}`).querySelector(".meta").textContent = note;
}

function refused(frame) {
  if (frame.code === "unknown_conversation") {
    conversation = {};
    remember("localStorage", STORED, null);
    socket?.send(JSON.stringify({ type: "start", language }));
    return;
  }
  if (unsent.has(frame.client_id)) {
    // Nothing is lost: the text goes back where it can be mended.
    const text = unsent.get(frame.client_id);
    unsent.delete(frame.client_id);
    document.querySelector(`[data-client="${CSS.escape(frame.client_id)}"]`)?.remove();
    $("text").value = $("text").value ? `${text}\n${$("text").value}` : text;
    saveDraft();
  }
  $("problem").textContent = frame.text;
}

// Drawing

function put(message) {
  const known = messages.get(message.id);
  if (known && message.seq < known.seq) return;
  unsent.delete(message.client_id);
  if (!known && message.client_id) {
    document.querySelector(`[data-client="${CSS.escape(message.client_id)}"]`)?.remove();
  }
  messages.set(message.id, message);
  const wasAtEnd = isAtEnd();
  draw(message);
  if (wasAtEnd) scrollToEnd();
  else $("newer").hidden = false;
  showStop();
}

function draw(message) {
  let item = $(`message-${message.id}`);
  if (!item) {
    item = newItem(message.role);
    item.id = `message-${message.id}`;
    const later = [...$("messages").children].find((other) => Number(other.id.slice(8)) > message.id);
    const pending = $("messages").querySelector("[data-client]");
    $("messages").insertBefore(item, later ?? pending);
  }
  const isWriting = message.role === "assistant" && !message.finish_reason;
  item.classList.toggle("writing", isWriting && message.text !== "");
  item.classList.toggle("waiting", isWriting && message.text === "");
  item.querySelector(".bubble").textContent = message.text;
  item.querySelector(".bubble").hidden = message.text === "" && !isWriting;
  item.setAttribute("aria-busy", String(isWriting));
  const meta = item.querySelector(".meta");
  meta.replaceChildren(endNote(message) || timeOf(message.at));
  if (message.finish_reason === "error") meta.append(" ", retryButton(message));
  item.querySelector(".suggestions")?.remove();
  if (message.finish_reason === "stop" && message.suggestions?.length) item.append(suggestionList(message));
}

function newItem(role) {
  const item = document.createElement("li");
  item.className = `message ${role}`;
  const name = document.createElement("span");
  name.className = "visually-hidden";
  name.textContent = role === "user" ? texts.you : texts.assistant;
  const bubble = document.createElement("div");
  bubble.className = "bubble";
  bubble.dir = "auto";
  const meta = document.createElement("p");
  meta.className = "meta";
  item.append(name, bubble, meta);
  return item;
}

function suggestionList(message) {
  const list = document.createElement("ul");
  list.className = "starters suggestions";
  list.setAttribute("aria-label", texts.suggestions);
  for (const question of message.suggestions) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "starter";
    button.dir = "auto";
    button.textContent = question;
    button.onclick = () => ask(question);
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  }
  return list;
}

function endNote(message) {
  if (message.finish_reason === "cancelled") return texts.stopped;
  if (message.finish_reason === "length") return texts.cut;
  if (message.finish_reason === "error") return texts.interrupted;
  return "";
}

function timeOf(at) {
  return new Date(at).toLocaleTimeString(language, { hour: "2-digit", minute: "2-digit" });
}

function retryButton(message) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = texts.retry;
  button.onclick = () => {
    const asked = [...messages.values()].filter((other) => other.role === "user" && other.id < message.id).pop();
    if (asked) ask(asked.text);
  };
  return button;
}

function drawUnsent(clientId, text) {
  const item = newItem("user");
  item.dataset.client = clientId;
  item.querySelector(".bubble").textContent = text;
  item.querySelector(".meta").textContent = texts.sending;
  $("messages").append(item);
  scrollToEnd();
}

function showStatus(status) {
  const wasLive = isLive;
  isLive = status.live;
  $("learning").hidden = isLive;
  if (isLive) {
    if (wasLive === false) announce(texts.live);
    return;
  }
  const run = status.run;
  $("learning-text").textContent = run
    ? texts.learning.replace("%(phase)s", run.phase.toLowerCase()).replace("%(percent)s", run.percent).replace("%%", "%")
    : texts.notYet;
  $("learning-progress").hidden = !run;
  if (run) $("learning-progress").value = run.percent;
}

function connected() {
  clearTimeout(bannerTimer);
  bannerTimer = 0;
  if ($("banner").hidden) return;
  showBanner(texts.online);
  setTimeout(() => ($("banner").hidden = true), BANNER_MS);
}

function showBanner(text) {
  $("banner").textContent = text;
  $("banner").hidden = false;
}

function announce(text) {
  $("announcer").textContent = text;
}

function isAtEnd() {
  const log = $("log");
  return log.scrollHeight - log.scrollTop - log.clientHeight < 40;
}

function scrollToEnd() {
  $("log").scrollTop = $("log").scrollHeight;
  $("newer").hidden = true;
}

function showStop() {
  const isWriting = [...messages.values()].some((message) => message.role === "assistant" && !message.finish_reason);
  $("stop").hidden = !isWriting;
  $("send").hidden = isWriting && !$("text").value.trim();
}

// Writing

function ask(text) {
  $("problem").textContent = "";
  const clientId = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  unsent.set(clientId, text);
  drawUnsent(clientId, text);
  announce(texts.writing);
  send({ type: "message", client_id: clientId, text });
}

function submit() {
  const text = $("text").value.trim();
  if (!text) return;
  if ([...text].length > maxChars) {
    // The server says the same; asking it would only take the text away for a moment.
    $("problem").textContent = texts.tooLong.replace("%(num)s", [...text].length).replace("%(max)s", maxChars);
    return;
  }
  $("text").value = "";
  saveDraft();
  ask(text);
}

function saveDraft() {
  remember("sessionStorage", DRAFT, $("text").value);
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
$("text").addEventListener("input", () => {
  $("problem").textContent = "";
  saveDraft();
  showStop();
});
$("stop").addEventListener("click", () => send({ type: "stop" }));
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("stop").hidden) send({ type: "stop" });
});
$("newer").addEventListener("click", scrollToEnd);
$("log").addEventListener("scroll", () => {
  if (isAtEnd()) $("newer").hidden = true;
});
for (const starter of document.querySelectorAll(".starter")) {
  starter.addEventListener("click", () => ask(starter.textContent));
}

$("text").value = recall("sessionStorage", DRAFT) ?? "";
connect();
