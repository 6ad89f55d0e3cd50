// The inbox of staff who answer customers, live over a websocket (chat/inbox_consumer.py). What the server says is drawn
// as text alone; the reply box is left as it is, so that nothing half written is lost.

import { filled, make } from "./drawing.js";

const CLOSE_FORBIDDEN = 4003;
const PING_MS = 20_000;
const FIND_MS = 250;
const texts = JSON.parse(document.getElementById("inbox-texts").textContent);
const room = document.querySelector(".inbox");
const part = (name) => document.getElementById(`inbox-${name}`);
const language = document.documentElement.lang || undefined;
const pageTitle = document.title;
const nothingOpened = part("reference").textContent;

let socket = null;
let waitToConnect = 1_000;
let opened = null; // the id of the hand-over that is shown
let shown = null; // what the server said of it last
let sending = null; // {clientId, handover} until the server has stored it
let known = null; // ids of who waited before, to say who is new
const drafts = new Map();

function send(frame) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/ws/inbox/`);
  socket.onopen = () => {
    waitToConnect = 1_000;
    part("offline").hidden = true;
    if (opened) send({ type: "open", handover: opened });
    if (sending) send(sending);
  };
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = (event) => {
    part("offline").hidden = false;
    part("offline").textContent = event.code === CLOSE_FORBIDDEN ? texts.forbidden : texts.offline;
    if (event.code === CLOSE_FORBIDDEN) return;
    setTimeout(connect, waitToConnect * (0.5 + Math.random() / 2));
    waitToConnect = Math.min(2 * waitToConnect, 30_000);
  };
}

function receive(frame) {
  if (frame.type === "inbox") drawLists(frame);
  if (frame.type === "thread" && frame.id === opened) drawThread(frame);
  if (frame.type === "found") drawFound(frame.answers);
  if (frame.type === "stored" && frame.client_id === sending?.client_id) stored();
  if (frame.type === "error") refused(frame);
}

function stored() {
  if (sending.handover === opened && part("text").value.trim() === sending.text) part("text").value = "";
  drafts.delete(sending.handover);
  sending = null;
  drawReply();
  announce(texts.sent);
}

function refused({ code, text, handover, client_id: clientId }) {
  if (clientId && clientId === sending?.client_id) sending = null;
  // Another may have been chosen meanwhile, and stays.
  if (code === "gone" && handover !== opened) return void drafts.delete(handover);
  // Whoever reads the lists again is not called away from them by what has become of a conversation.
  const wasLeft = Boolean(shown) && !part("opened").offsetHeight;
  if (code === "gone") empty();
  if (code === "gone" && wasLeft) return;
  showThread();
  part("problem").textContent = text;
}

// The conversation has been deleted, and nothing of it may stay.
function empty() {
  const hadFocus = part("opened").contains(document.activeElement);
  drafts.delete(opened);
  opened = shown = null;
  history.replaceState(null, "", location.pathname);
  part("opened").hidden = true;
  for (const name of ["messages", "facts"]) part(name).replaceChildren();
  part("text").value = "";
  part("reference").textContent = nothingOpened;
  if (hadFocus) part("reference").focus();
}

// Lists

function drawLists(lists) {
  const focused = document.activeElement?.dataset.handover;
  for (const name of ["waiting", "mine", "others", "closed"]) {
    const rows = lists[name].map((row) => make("li", {}, rowButton(row, name)));
    const list = room.querySelector(`[data-list=${name}]`);
    list.replaceChildren(...(rows.length ? rows : [make("li", { className: "room-soft", textContent: texts.empty })]));
    const count = room.querySelector(`[data-count=${name}]`);
    if (count) count.textContent = `(${lists[name].length})`;
  }
  if (focused) room.querySelector(`[data-handover="${focused}"]`)?.focus();
  const num = lists.waiting.length + lists.mine.filter((row) => row.waits).length;
  document.title = num ? filled(texts.inTitle, { num, title: pageTitle }) : pageTitle;
  const added = known ? lists.waiting.filter((row) => !known.has(row.id)) : [];
  if (added.length) announce(added.map((row) => filled(texts.newWaiting, row)).join(". "));
  known = new Set(lists.waiting.map((row) => row.id));
}

function rowButton(row, name) {
  const button = make("button", { type: "button", className: "inbox-row" });
  button.dataset.handover = row.id;
  button.setAttribute("aria-current", String(row.id === opened));
  button.append(make("strong", { textContent: row.reference }), " ");
  const facts = name === "closed" ? [row.state_text, row.agent] : [...factsOf(row), name === "mine" && row.waits ? texts.waits : ""];
  button.append(make("span", { className: "room-soft", textContent: facts.filter(Boolean).join(" · ") }));
  if (row.last) button.append(make("span", { className: "inbox-last", dir: "auto", textContent: row.last }));
  button.onclick = () => open(row.id);
  return button;
}

function factsOf(row) {
  const seen = row.is_here ? texts.here : filled(texts.away, { time: duration(row.seen_seconds) });
  const agent = row.state === "taken" ? filled(texts.with, { name: row.agent }) : "";
  return [row.reason, filled(row.was_asked ? texts.waited : texts.begun, { time: duration(row.seconds) }), seen, agent];
}

function duration(seconds) {
  if (seconds < 60) return filled(texts.seconds, { num: seconds });
  if (seconds < 3_600) return filled(texts.minutes, { num: Math.floor(seconds / 60) });
  if (seconds < 172_800) return filled(texts.hours, { num: Math.floor(seconds / 3_600) });
  return filled(texts.days, { num: Math.floor(seconds / 86_400) });
}

// One conversation. On a narrow screen it takes the place of the lists (inbox.css).

const isReading = () => room.classList.contains("inbox-reading");

function showThread() {
  const hadFocus = part("lists").contains(document.activeElement);
  room.classList.add("inbox-reading");
  if (hadFocus && !part("lists").offsetHeight) part("reference").focus();
}

function showLists() {
  room.classList.remove("inbox-reading");
  (room.querySelector(`[data-handover="${opened}"]`) ?? part("lists")).focus();
}

function open(id) {
  if (shown?.id === id) return void showAgain();
  if (opened) drafts.set(opened, part("text").value);
  opened = id;
  // Loaded again, the page shows the same.
  history.replaceState(null, "", `?handover=${id}`);
  shown = null;
  part("problem").textContent = "";
  part("messages").replaceChildren();
  part("text").value = drafts.get(id) ?? "";
  send({ type: "open", handover: id });
}

function showAgain() {
  const wasHidden = !part("opened").offsetHeight;
  part("problem").textContent = "";
  showThread();
  // What came meanwhile could not be scrolled to.
  if (wasHidden) part("log").scrollTop = part("log").scrollHeight;
  part("reference").focus();
  // What came is told of anyway; asked for all the same, as a channel layer may drop a word.
  send({ type: "open", handover: opened });
}

function drawThread(thread) {
  const isFirst = shown?.id !== thread.id;
  const isNewlyMine = thread.is_mine && !shown?.is_mine;
  const isLost = !thread.is_mine && shown?.is_mine && part("reply").contains(document.activeElement);
  const last = shown?.messages.at(-1)?.id ?? Infinity;
  // While nothing is said nothing is drawn anew: selected words stay so, and nothing moves under a finger.
  const isSameWords = !isFirst && JSON.stringify(shown.messages) === JSON.stringify(thread.messages);
  shown = thread;
  part("opened").hidden = false;
  if (isFirst) showThread();
  part("reference").textContent = [thread.reference, thread.customer].filter(Boolean).join(" · ");
  const email = thread.email ? filled(texts.email, { email: thread.email }) : "";
  part("facts").textContent = [thread.state_text, ...factsOf(thread), thread.language, email].filter(Boolean).join(" · ");
  part("page").hidden = !thread.url;
  part("page").href = thread.url;
  const log = part("log");
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  if (!isSameWords) part("messages").replaceChildren(...thread.messages.map(said));
  if (isFirst || isAtEnd) log.scrollTop = log.scrollHeight;
  const hadTake = document.activeElement === part("take");
  part("take").hidden = !thread.may_take;
  drawReply();
  if (isFirst || isLost) part("reference").focus();
  else if (isNewlyMine && hadTake) part("text").focus();
  for (const button of room.querySelectorAll("[data-handover]"))
    button.setAttribute("aria-current", String(Number(button.dataset.handover) === opened));
  const heard = thread.messages.filter((message) => message.id > last && message.role === "user");
  for (const { text } of heard) announce(filled(texts.newMessage, { reference: thread.reference, text }));
}

// What was typed and not sent stays to be copied when the conversation is not theirs any more.
function drawReply() {
  const isMine = Boolean(shown?.is_mine);
  const isUnsent = !isMine && Boolean(part("text").value.trim());
  part("reply").hidden = !isMine && !isUnsent;
  part("text").readOnly = !isMine;
  part("moves").hidden = !isMine;
  part("hint").textContent = isMine ? texts.keys : texts.unsent;
}

function said({ role, by, at, text, suggestions, basis }) {
  const time = new Date(at).toLocaleString(language, { dateStyle: "short", timeStyle: "short" });
  const item = make("li", { className: `inbox-said ${role}` });
  item.append(make("p", { className: "room-soft" }, make("strong", { textContent: by }), ` ${time}`));
  item.append(make("div", { className: "inbox-text", dir: "auto", textContent: text }));
  if (suggestions.length)
    item.append(make("ul", {}, ...suggestions.map((each) => make("li", { dir: "auto", textContent: each }))));
  if (basis.length) item.append(make("p", { className: "room-soft inbox-basis", textContent: basis.join(" · ") }));
  return item;
}

function move(type) {
  part("problem").textContent = "";
  send({ type, handover: opened });
}

function reply() {
  const text = part("text").value.trim();
  if (!text || sending || !shown?.is_mine) return;
  part("problem").textContent = "";
  // Kept until it is stored: a lost connection sends it again, and it is stored once.
  sending = { type: "reply", handover: opened, client_id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, text };
  send(sending);
}

// Published answers

let findTimer = 0;

function find() {
  clearTimeout(findTimer);
  const text = part("find").value.trim();
  if (!text) part("found").replaceChildren();
  else findTimer = setTimeout(() => send({ type: "find", text }), FIND_MS);
}

function drawFound(answers) {
  const insert = (answer) => {
    const box = part("text");
    box.setRangeText(answer, box.selectionStart, box.selectionEnd, "end");
    box.focus();
  };
  const buttons = answers.map(({ question, answer }) => {
    const button = make("button", { type: "button", className: "room-button room-quiet", dir: "auto", textContent: question });
    button.onclick = () => insert(answer);
    return make("li", {}, button);
  });
  part("found").replaceChildren(...(buttons.length ? buttons : [make("li", { textContent: texts.nothingFound })]));
}

function announce(text) {
  part("announcer").textContent = text;
}

part("back").onclick = showLists;
part("take").onclick = () => move("take");
part("give-back").onclick = () => move("give_back");
part("close").onclick = () => move("close");
part("find").oninput = find;
part("find").onkeydown = (event) => event.key === "Enter" && event.preventDefault();
part("reply").onsubmit = (event) => {
  event.preventDefault();
  reply();
};
part("text").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) reply();
};
setInterval(() => send({ type: "ping" }), PING_MS);
const wanted = Number(new URLSearchParams(location.search).get("handover"));
if (Number.isSafeInteger(wanted) && wanted > 0) open(wanted);
connect();
