// One conversation with the server: over a websocket, and by polling where that fails again and again. It draws nothing.
//
// The server's stored messages are the truth. Events, each with a detail:
//   message {message, isHistory, isNews}   done {message}   gone {id}     pending {clientId, text}   settled {clientId}
//   waiting {id, place}            status {…}       refused {text, code, returned, seconds}  ready   offline   online
//   rated {rating}: by the customer, of the whole          ended: people have closed it, and nothing was said since
//   forgotten {isDeleted}: nothing that was shown is there any more; isDeleted: not at the server either
//   handover {reference, state, agent, note, email, asks_for_email} or null

const PING_MS = 20_000;
const SILENCE_MS = 45_000;
const OFFLINE_MS = 2_000;
const MAX_DELAY_MS = 30_000;
const TYPING_MS = 700;
// So many sockets in a row that never came to be ready, and messages go by plain requests until one does.
const FAILURES_BEFORE_POLLING = 3;
const POLL_MS = 2_000;
const IDLE_POLL_MS = 10_000;
// What begins a conversation where there is none.
const BEGINNINGS = ["message", "person"];

export function isWriting(message) {
  return message.role === "assistant" && !message.finish_reason;
}

function newId() {
  return crypto.randomUUID?.() ?? `${Date.now()}-${Math.random().toString(36).slice(2)}`;
}

export class Connection extends EventTarget {
  // base: the server's address with a slash at its end; site: the key of the website that carries the chat, or "".
  constructor({ base, site, language, memory }) {
    super();
    Object.assign(this, { base, site, language, memory });
    this.messages = new Map(); // message id -> what the server says of it
    this.rating = null; // of the whole conversation
    this.handover = null; // what the server says of it while people have the conversation
    this.unsent = new Map(memory.recall("unsent", "sessionStorage") ?? []); // client id -> text, until it is stored
    this.outbox = new Map(); // kind -> {frame, after, carrier}: other frames, until the server says that they arrived
    this.conversation = memory.recall("conversation") ?? {};
    this.ownToken = memory.recall("token", "sessionStorage"); // of the conversation that what is unsent begins
    this.socket = null;
    this.isReady = false;
    this.failures = 0;
    this.poll = null; // {cursor} while polling
    this.lastHeardAt = 0;
    this.typedAt = 0;
  }

  start() {
    const wake = () => document.visibilityState === "visible" && this.#reconnectNow();
    addEventListener("pageshow", wake);
    document.addEventListener("visibilitychange", wake);
    // Also where nobody looks, since nothing else goes on by itself.
    addEventListener("online", () => this.#reconnectNow());
    addEventListener("offline", () => this.#cutOff());
    // Some browsers do not keep a page for the way back that has an open socket, and a kept one hears nothing.
    addEventListener("pagehide", () => this.#rest());
    addEventListener("storage", () => this.#adopt());
    setInterval(() => this.#checkLife(), PING_MS);
    for (const [clientId, text] of this.unsent) this.#tell("pending", { clientId, text });
    // Whatever the browser thinks of the network: the server may be on this very machine.
    this.#open();
  }

  // What is asked again with the same id is answered once.
  ask(text, clientId = newId()) {
    if (this.unsent.has(clientId)) return;
    this.unsent.set(clientId, text);
    this.#keepUnsent();
    this.#tell("pending", { clientId, text });
    this.#send({ type: "message", client_id: clientId, text });
  }

  // Before its first word a reply may wait for what else is said.
  type() {
    const isAwaited = [...this.messages.values()].some((message) => isWriting(message) && !message.seq);
    if (!isAwaited || !this.isSocketReady || Date.now() - this.typedAt < TYPING_MS) return;
    this.typedAt = Date.now();
    this.#send({ type: "typing" });
  }

  stop() {
    this.#send({ type: "stop" });
  }

  rate(id, rating, reasons = [], text = "") {
    this.#sendSurely({ type: "feedback", message_id: id, rating, reasons, text });
  }

  rateAll(rating) {
    this.#sendSurely({ type: "rate", rating });
  }

  askForPerson() {
    this.#sendSurely({ type: "person" });
  }

  leaveEmail(email) {
    this.#sendSurely({ type: "contact", email });
  }

  leavePeople() {
    this.#sendSurely({ type: "leave_people" });
  }

  identify({ name = "", email = "" }) {
    this.identity = { type: "identify", name: String(name), email: String(email) };
    this.#send(this.identity);
  }

  setLanguage(language) {
    this.language = language;
    this.#send(this.#greeting());
  }

  // Another person may come to this screen: nothing of the conversation stays here.
  forget() {
    this.unsent.clear();
    this.#keepUnsent();
    this.identity = null;
    this.#leave();
    this.#tell("forgotten", { isDeleted: false });
    this.socket?.close();
  }

  // The conversation stays at the server as it is; what is said next begins another, on the other tabs too.
  beginAnew() {
    this.#leave({ isStored: false });
    this.memory.remember("conversation", {});
    this.#beginAgain();
  }

  // It is deleted at the server, which then says so to all pages.
  deleteConversation() {
    this.#sendSurely({ type: "forget" });
  }

  get isWriting() {
    return [...this.messages.values()].some(isWriting);
  }

  // The socket

  #connect() {
    clearTimeout(this.reconnectTimer);
    if (this.socket && this.socket.readyState <= WebSocket.OPEN) return;
    if (navigator.onLine) this.#open();
    else this.#offline();
  }

  #open() {
    const address = new URL("ws/chat/", this.base);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const opened = new WebSocket(address);
    this.socket = opened;
    this.isSocketReady = false;
    this.lastHeardAt = Date.now();
    opened.onopen = () => opened.send(JSON.stringify(this.#greeting()));
    opened.onmessage = (event) => {
      this.lastHeardAt = Date.now();
      if (this.socket === opened) this.#receive(JSON.parse(event.data));
    };
    opened.onclose = () => {
      if (this.socket === opened) this.#lost();
    };
  }

  #greeting() {
    return { type: "start", language: this.language, site: this.site, ...this.conversation };
  }

  #lost() {
    this.socket = null;
    this.isSocketReady = false;
    this.failures += 1;
    if (this.failures >= FAILURES_BEFORE_POLLING && !this.poll) this.#startPolling();
    if (!this.poll) this.#offline();
    const delay = Math.min(MAX_DELAY_MS, 500 * 2 ** Math.min(this.failures, 6)) * (0.5 + Math.random() / 2);
    this.reconnectTimer = setTimeout(() => this.#connect(), delay);
  }

  #reconnectNow() {
    this.#pollOnce();
    if (this.socket && Date.now() - this.lastHeardAt > SILENCE_MS) this.#drop();
    if (!this.socket || this.socket.readyState > WebSocket.OPEN) this.#connect();
    else this.#send({ type: "resume" });
  }

  #rest() {
    clearTimeout(this.reconnectTimer);
    clearTimeout(this.pollTimer);
    if (this.socket) this.#drop();
  }

  // Nothing is written into a dead socket, and nothing tried before the network is there again.
  #cutOff() {
    this.#rest();
    this.#offline();
  }

  // A dead network says nothing, so that waiting for a close would take minutes.
  #drop() {
    const dead = this.socket;
    this.socket = null;
    this.isSocketReady = false;
    this.isReady = false;
    dead.close();
  }

  #checkLife() {
    if (this.socket && Date.now() - this.lastHeardAt > SILENCE_MS) {
      this.#drop();
      this.#lost();
    } else this.#send({ type: "ping" });
  }

  // Another tab has started a conversation, which is this one's too if it has none, or has left the one that both had.
  #adopt() {
    const stored = this.memory.recall("conversation");
    if (!stored || this.unsent.size) return;
    if (!this.conversation.conversation) {
      this.conversation = stored;
      this.#send(this.#greeting());
    } else if (!stored.conversation) {
      this.#leave({ isStored: false });
      this.#beginAgain();
    }
  }

  // On a new socket, so that nothing arrives any more of the conversation that was left.
  #beginAgain() {
    this.#tell("forgotten", { isDeleted: false });
    if (this.socket) this.#drop();
    this.#connect();
  }

  #offline() {
    this.isReady = false;
    this.offlineTimer ||= setTimeout(() => this.#tell("offline"), OFFLINE_MS);
  }

  #online() {
    clearTimeout(this.offlineTimer);
    this.offlineTimer = 0;
    this.isReady = true;
    this.#tell("online");
  }

  #send(told) {
    const isBeginning = BEGINNINGS.includes(told.type) && !this.conversation.conversation;
    const frame = isBeginning ? { ...told, token: this.#tokenToBegin() } : told;
    if (this.socket?.readyState === WebSocket.OPEN && this.isSocketReady) this.socket.send(JSON.stringify(frame));
    else if (this.poll && !["ping", "resume", "start"].includes(frame.type)) this.#post(frame);
  }

  #sendSurely(frame) {
    const named = { ...frame, client_id: newId() };
    this.outbox.set(`${frame.type} ${frame.message_id ?? ""}`, { frame: named, after: Math.max(0, ...this.messages.keys()) });
    if (this.isReady) this.#sendOutbox();
  }

  // What is under way by the same carrier is not sent again.
  #sendOutbox() {
    const carrier = this.isSocketReady ? this.socket : this.poll;
    for (const [kind, each] of this.outbox) {
      if (this.#isSettled(each)) this.outbox.delete(kind);
      else if (each.carrier !== carrier) {
        each.carrier = carrier;
        this.#send(each.frame);
      }
    }
  }

  // Only that it was heard may have been lost: a later notice says what came of the wish for a person, or to leave them.
  #isSettled({ frame, after, carrier }) {
    const isWish = ["person", "leave_people"].includes(frame.type);
    return isWish && carrier && [...this.messages.values()].some(({ id, role }) => role === "system" && id > after);
  }

  #arrived(clientId) {
    for (const [kind, { frame }] of this.outbox) if (frame.client_id === clientId) this.outbox.delete(kind);
  }

  // Plain requests

  #startPolling() {
    this.poll = {};
    this.#pollOnce();
  }

  async #pollOnce() {
    clearTimeout(this.pollTimer);
    if (!this.poll || !navigator.onLine) return;
    const known = this.poll.cursor ? { since: this.poll.cursor } : {};
    try {
      await this.#request("chat/messages/", { conversation: this.conversation.conversation ?? "", ...known });
      if (this.poll && !this.isReady) this.#online();
    } catch {
      if (this.poll) this.#offline();
    }
    clearTimeout(this.pollTimer);
    const isBusy = this.isWriting || this.unsent.size || this.handover || !this.isReady;
    if (this.poll) this.pollTimer = setTimeout(() => this.#pollOnce(), isBusy ? POLL_MS : IDLE_POLL_MS);
  }

  async #post(frame) {
    const conversation = this.conversation.conversation ?? "";
    try {
      await this.#request("chat/frames/", {}, { method: "POST", body: JSON.stringify({ conversation, frame }) });
      this.#pollOnce();
    } catch {
      // What must arrive is kept; the next poll that succeeds sends it again.
      for (const each of this.outbox.values()) if (each.frame.client_id === frame.client_id) each.carrier = null;
      this.#offline();
    }
  }

  async #request(path, query, options = {}) {
    const address = new URL(path, this.base);
    address.search = new URLSearchParams({ language: this.language, site: this.site, ...query });
    const headers = { "Content-Type": "application/json" };
    if (this.conversation.token) headers.Authorization = `Bearer ${this.conversation.token}`;
    const answer = await fetch(address, { ...options, headers, credentials: "omit", cache: "no-store" });
    if (answer.status >= 500) throw new Error(answer.statusText);
    for (const each of (await answer.json()).frames) this.#receive(each);
  }

  // Frames

  #receive(frame) {
    switch (frame.type) {
      case "ready":
        this.#ready(frame);
        break;
      case "conversation":
        this.conversation = { conversation: frame.conversation, token: frame.token };
        this.#keepToken(null);
        this.memory.remember("conversation", this.conversation);
        break;
      case "message":
      case "done":
        this.#put(frame.message, false);
        break;
      case "withdrawn":
        this.#remove(frame.message_id);
        break;
      case "forgotten":
        if (frame.conversation === this.conversation.conversation) this.#deleted();
        break;
      case "waiting":
        this.#tell("waiting", { id: frame.message_id, place: frame.place });
        break;
      case "delta":
        this.#append(frame);
        break;
      case "pong":
        this.#handOver(frame.handover);
        this.#tell("status", frame.status);
        break;
      case "status":
        this.#tell("status", frame.status);
        break;
      case "handover":
        this.#handOver(frame.handover);
        if (frame.has_ended) this.#tell("ended");
        break;
      case "rated":
        this.#rated(frame.rating);
        break;
      case "ack":
        this.#arrived(frame.client_id);
        break;
      case "error":
        this.#refused(frame);
        break;
    }
  }

  #ready(frame) {
    const isPolled = "cursor" in frame;
    // Asked before the conversation was deleted.
    if (isPolled && (frame.conversation ?? "") !== (this.conversation.conversation ?? "")) return;
    if (!isPolled) {
      this.isSocketReady = true;
      this.poll = null;
      this.failures = 0;
      this.#online();
    } else if (this.poll) {
      this.poll.cursor = frame.cursor;
    }
    // What was withdrawn meanwhile is gone here too. Older ones than the server's oldest are merely not told of.
    const ids = new Set(frame.ids);
    for (const id of this.messages.keys()) if (id >= Math.min(...ids) && !ids.has(id)) this.#remove(id);
    const isFirst = this.messages.size === 0;
    this.#handOver(frame.handover);
    this.#rated(frame.rating);
    for (const message of frame.messages) this.#put(message, isFirst);
    if (frame.has_ended) this.#tell("ended");
    this.#tell("status", frame.status);
    this.#tell("ready");
    if (isPolled && frame.is_answer) return;
    if (this.identity) this.#send(this.identity);
    for (const [clientId, text] of this.unsent)
      this.#send({ type: "message", client_id: clientId, text, is_late: true });
    this.#sendOutbox();
  }

  #handOver(handover) {
    this.handover = handover;
    this.#tell("handover", handover);
  }

  #rated(rating) {
    this.rating = rating;
    this.#tell("rated", { rating });
  }

  #append({ message_id: id, seq, text, html }) {
    const message = this.messages.get(id);
    if (message && seq <= message.seq) return;
    if (!message || seq !== message.seq + 1) {
      this.#send({ type: "resume" });
      return;
    }
    this.#put({ ...message, seq, text: message.text + text, html }, false);
  }

  #put(message, isHistory) {
    const known = this.messages.get(message.id);
    if (known && (message.seq < known.seq || (known.finish_reason && !message.finish_reason))) return;
    if (message.client_id && this.unsent.delete(message.client_id)) {
      this.#keepUnsent();
      this.#tell("settled", { clientId: message.client_id });
    }
    this.messages.set(message.id, message);
    const isNews = known?.seq !== message.seq;
    this.#tell("message", { message, isHistory, isNews });
    const isFinishedNow = message.role !== "user" && message.finish_reason && !known?.finish_reason;
    if (isFinishedNow && !isHistory) this.#tell("done", { message });
  }

  #remove(id) {
    if (this.messages.delete(id)) this.#tell("gone", { id });
  }

  #refused(frame) {
    if (frame.code === "unknown_conversation") {
      this.#deleted();
      return;
    }
    // Nothing is lost: the text goes back where it can be mended.
    const returned = this.unsent.get(frame.client_id) ?? "";
    if (this.unsent.delete(frame.client_id)) {
      this.#keepUnsent();
      this.#tell("settled", { clientId: frame.client_id });
    }
    // What was not taken would not be the next time either.
    if (frame.client_id) this.#arrived(frame.client_id);
    this.#tell("refused", { text: frame.text, code: frame.code, seconds: frame.seconds, returned });
  }

  // What is unsent begins another conversation, or goes on in the one that another tab has begun.
  #deleted() {
    const isSeen = this.messages.size > 0;
    const stored = this.memory.recall("conversation");
    const isOther = stored && stored.conversation !== this.conversation.conversation;
    this.#leave({ isStored: !isOther });
    if (isOther) this.conversation = stored;
    if (isSeen) this.#tell("forgotten", { isDeleted: true });
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(this.#greeting()));
  }

  #leave({ isStored = true } = {}) {
    this.conversation = {};
    this.#keepToken(null);
    if (isStored) this.memory.remember("conversation", null);
    this.messages.clear();
    this.outbox.clear();
    this.poll &&= {};
    this.#handOver(null);
    this.#rated(null);
  }

  #keepUnsent() {
    this.memory.remember("unsent", this.unsent.size ? [...this.unsent] : null, "sessionStorage");
  }

  // With the same one, what is sent again on another connection goes into the conversation that it has begun.
  #tokenToBegin() {
    if (!this.ownToken) {
      const encoded = btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(32))));
      this.#keepToken(encoded.replaceAll("+", "-").replaceAll("/", "_").replace("=", ""));
    }
    return this.ownToken;
  }

  #keepToken(token) {
    this.ownToken = token;
    this.memory.remember("token", token, "sessionStorage");
  }

  #tell(name, detail = {}) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
