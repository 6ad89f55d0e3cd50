// <customer-chat>: the chat as a web component. It draws one conversation into a shadow root, as the whole page or as a
// launcher with a dialog. No inline style and no evaluated code, so that strict content policies let it be.

import { isWriting } from "./connection.js";
import { filled, fromHtml, icon, make } from "./drawing.js";
import { Ending } from "./ending.js";
import { PeopleBar } from "./people.js";

const ONLINE_MS = 2_000;
const COPIED_MS = 2_000;
// What else covers the page, such as the browser's own bar, is lower.
const MIN_KEYBOARD_PIXELS = 100;
const REASONS = ["incorrect", "incomplete", "outdated", "inappropriate", "other"];

export class CustomerChat extends HTMLElement {
  constructor() {
    super();
    this.attachShadow({ mode: "open" });
    this.unread = 0;
    this.isLive = null;
    // Answers are shown when they are whole, not as they grow.
    this.isWhole = false;
    // The reader is at the end of what was said, and is to stay there whatever changes around it.
    this.isFollowing = true;
    this.scrolledTo = 0;
  }

  // config: what the server says in the reader's language (chat/views.py). isPage: the whole page is the chat.
  // kioskSeconds: forget the conversation when nobody has touched the screen for so long; 0 for no kiosk.
  setUp({ config, connection, memory, isPage = false, kioskSeconds = 0 }) {
    Object.assign(this, { connection, memory, isPage, kioskSeconds });
    this.isWhole = !kioskSeconds && Boolean(memory.recall("wholeAnswers"));
    this.classList.add(isPage ? "page" : kioskSeconds ? "kiosk" : "floating");
    this.#draw(config);
    this.#listen();
    if (kioskSeconds) this.#forgetWhenIdle();
    if (isPage || kioskSeconds || memory.recall("isOpen")) this.#show();
    connection.start();
  }

  get isOpen() {
    return !this.panel.hidden;
  }

  get isFloating() {
    return !this.isPage && !this.kioskSeconds;
  }

  open() {
    const wasOpen = this.isOpen;
    this.#show();
    this.parts.text.focus();
    if (wasOpen) return;
    this.memory.remember("isOpen", true);
    this.#emit("open");
  }

  close() {
    if (!this.isFloating || !this.isOpen) return;
    this.panel.hidden = true;
    this.#labelLauncher();
    this.launcher.focus();
    this.memory.remember("isOpen", null);
    this.#emit("close");
  }

  ask(text, clientId) {
    this.parts.problem.textContent = "";
    this.ending.hide();
    if (!this.connection.handover) this.#announce(this.texts.writing);
    this.connection.ask(text, clientId);
  }

  // The same conversation in another language.
  translate(config) {
    const { isOpen, isFollowing } = this;
    const { activeElement } = this.shadowRoot;
    const { log, text, options } = this.parts;
    const draft = text.value;
    const { isCorrecting } = this.people;
    const email = this.people.email.value;
    const below = log.scrollHeight - log.scrollTop;
    const hasEnded = !this.ending.element.hidden;
    this.#draw(config);
    this.parts.text.value = draft;
    this.people.email.value = email;
    this.people.isCorrecting = isCorrecting;
    if (options) this.parts.options.open = options.open;
    if (isOpen) this.#show();
    else this.#labelLauncher();
    this.connection.setLanguage(config.language);
    for (const message of this.connection.messages.values()) this.#drawMessage(message);
    for (const [clientId, text] of this.connection.unsent) this.#drawPending(clientId, text);
    this.#showHandover(this.connection.handover);
    if (hasEnded) this.ending.show(this.connection.rating);
    this.isFollowing = isFollowing;
    this.#scrollTo(this.parts.log.scrollHeight - below);
    if (activeElement) (this.shadowRoot.getElementById(activeElement.id) ?? this.parts.text).focus();
  }

  // The frame around the messages

  #draw(config) {
    Object.assign(this, { config, texts: config.texts });
    const root = make("div", { className: "root", lang: config.language, dir: config.direction });
    this.panel = this.#drawPanel();
    root.append(this.panel);
    if (this.isFloating) root.prepend(this.#drawLauncher());
    root.hidden = this.root?.hidden ?? true;
    if (this.root) this.root.replaceWith(root);
    else this.shadowRoot.append(this.#drawStyle(), root);
    this.root = root;
    this.parts.text.value = this.memory.recall("draft", "sessionStorage") ?? "";
  }

  // Unstyled the chat would be seen for a moment, and on a foreign page in a place of its own.
  #drawStyle() {
    const style = make("link", { rel: "stylesheet", href: new URL("chat.css", import.meta.url).href });
    style.onload = style.onerror = () => {
      this.root.hidden = false;
      if (this.isPage) this.parts.text.focus();
      this.#scrollToEnd();
    };
    return style;
  }

  #drawLauncher() {
    this.badge = make("span", { className: "badge", hidden: true });
    this.launcher = make("button", {
      type: "button",
      className: "launcher",
      id: "launcher",
      onclick: () => (this.isOpen ? this.close() : this.open()),
      attributes: { "aria-expanded": "false", "aria-controls": "panel", "aria-label": this.texts.open },
    });
    this.launcher.append(icon("chat"), this.badge);
    return make("div", { attributes: { role: "region", "aria-label": this.config.title } }, this.launcher);
  }

  #drawPanel() {
    const { config, texts } = this;
    const part = (tag, id, properties = {}, ...children) => (this.parts[id] = make(tag, { id, ...properties }, ...children));
    this.parts = {};
    const header = make("header", { className: "header" }, make("span", { className: "mark" }, icon("chat")));
    header.append(
      make(
        "div",
        { className: "names" },
        make(this.isPage ? "h1" : "h2", { id: "title", textContent: config.title }),
        part("p", "subtitle", { textContent: config.subtitle }),
      ),
      make("slot", { name: "header" }),
    );
    if (this.isFloating) header.append(this.#iconButton("close", texts.close, () => this.close()));

    const welcome = make("div", { className: "welcome" }, make("p", { textContent: config.disclosure }));
    for (const more of [config.languageNote, config.greeting].filter(Boolean))
      welcome.append(make("p", { textContent: more, dir: "auto" }));
    part("div", "learning", { className: "learning", hidden: true });
    part("p", "learning-text");
    part("progress", "learning-progress", { max: 100, value: 0, attributes: { "aria-labelledby": "learning-text" } });
    this.parts.learning.append(this.parts["learning-text"], this.parts["learning-progress"]);
    welcome.append(this.parts.learning);
    if (config.starters.length) welcome.append(this.#questions(config.starters, texts.starters, "starters"));
    part("ol", "messages", { className: "messages" });
    this.ending = new Ending(texts, {
      onRate: (rating) => this.#rateAll(rating),
      onAnew: () => this.#beginAnew(),
    });
    part("div", "log", { className: "log", tabIndex: 0 }, welcome, this.parts.messages, this.ending.element);
    for (const [name, value] of [["role", "log"], ["aria-label", texts.conversation], ["aria-live", "off"]])
      this.parts.log.setAttribute(name, value);
    part("button", "newer", { type: "button", className: "newer", hidden: true, textContent: `↓ ${texts.newer}` });

    part("textarea", "text", { rows: 1, dir: "auto", autocomplete: "off", enterKeyHint: "send", inputMode: "text" });
    this.parts.text.autocapitalize = "sentences";
    this.parts.text.placeholder = texts.placeholder;
    this.parts.text.setAttribute("aria-describedby", "problem");
    part("button", "send", { type: "submit", className: "send", title: texts.send, ariaLabel: texts.send }, icon("send"));
    part("button", "stop", { type: "button", className: "stop", title: texts.stop, ariaLabel: texts.stop }, icon("stop"));
    this.parts.stop.hidden = true;
    part("button", "person", { type: "button", className: "person" }, icon("person"), texts.person);
    part("p", "problem", { className: "problem", attributes: { role: "alert" } });
    const label = make("label", { className: "visually-hidden", htmlFor: "text", textContent: texts.label });
    part("form", "composer", { className: "composer" }, label, this.parts.text, this.parts.send, this.parts.stop);
    this.parts.composer.append(this.parts.problem, make("div", { className: "below" }, this.parts.person, ...this.#ownRights()));

    part("p", "banner", { className: "banner", hidden: true, attributes: { role: "status" } });
    const body = make("div", { className: "body" }, this.parts.log, this.parts.newer);
    const main = make(this.isFloating ? "div" : "main", { className: "main" }, this.parts.banner, body);
    this.people = new PeopleBar(texts, this.connection);
    main.append(this.people.element, this.parts.composer);
    part("div", "announcer", { className: "visually-hidden", attributes: { "aria-live": "polite" } });
    const panel = make("div", { id: "panel", className: "panel", hidden: true }, header, main, this.parts.announcer);
    if (this.isFloating) {
      panel.setAttribute("role", "dialog");
      panel.setAttribute("aria-labelledby", "title");
    }
    this.#listenToParts(panel);
    return panel;
  }

  // A screen for everybody has no way out of the chat, and forgets by itself.
  #ownRights() {
    this.parts.end = make("button", { type: "button", className: "end", textContent: this.texts.end, hidden: true });
    this.parts.end.onclick = () => this.#end();
    if (this.kioskSeconds) return [this.parts.end];
    const href = new URL(this.config.privacyUrl, this.connection.base).href;
    const privacy = make("a", { href, textContent: this.texts.privacy, target: "_blank", rel: "noopener" });
    this.parts.forget = make("button", { type: "button", className: "forget", textContent: this.texts.forget });
    this.parts.forget.hidden = true;
    this.parts.forget.onclick = () => {
      if (confirm(this.texts.confirmForget)) this.connection.deleteConversation();
    };
    return [this.#options(), privacy, this.parts.forget];
  }

  #options() {
    const box = make("input", { type: "checkbox", id: "whole", checked: this.isWhole });
    box.onchange = () => {
      this.isWhole = box.checked;
      this.memory.remember("wholeAnswers", this.isWhole || null);
      for (const message of this.connection.messages.values()) if (isWriting(message)) this.#drawMessage(message);
    };
    const summary = make("summary", { id: "options", textContent: this.texts.options });
    const choices = make("div", { className: "choices" }, make("label", {}, box, this.texts.wholeAnswers), this.parts.end, this.#anew());
    this.parts.options = make("details", {}, summary, choices);
    return this.parts.options;
  }

  #anew() {
    this.parts.anew = make("button", { type: "button", className: "anew", textContent: this.texts.anew, hidden: true });
    this.parts.anew.onclick = () => this.#beginAnew();
    return this.parts.anew;
  }

  #beginAnew() {
    if (this.kioskSeconds) this.#forget();
    // What is still to be sent, such as that the old one be deleted, needs its key.
    else if (this.connection.outbox.size) this.parts.problem.textContent = this.texts.offline;
    else if (confirm(this.texts.confirmAnew)) {
      this.connection.beginAnew();
      this.parts.options.open = false;
      this.#announce(this.texts.begun);
    }
  }

  #end() {
    if (this.parts.options) this.parts.options.open = false;
    this.#showEnding();
    this.ending.focus();
  }

  #showEnding() {
    this.ending.show(this.connection.rating);
    this.#scrollToEnd();
  }

  #hasEnded() {
    if (!this.ending.element.hidden) return;
    this.ending.show(this.connection.rating);
    if (this.isFollowing) this.#scrollToEnd();
    // Beside the notice that says so.
    this.parts.announcer.append(" ", this.texts.ended);
  }

  #rateAll(rating) {
    this.connection.rateAll(rating);
    this.#announce(rating ? this.texts.thanks : this.texts.undone);
  }

  #iconButton(name, label, onclick) {
    return make("button", { type: "button", className: `icon ${name}`, title: label, ariaLabel: label, onclick }, icon(name));
  }

  #questions(questions, label, className) {
    const list = make("ul", { className, attributes: { "aria-label": label } });
    for (const question of questions) {
      const button = make("button", { type: "button", className: "starter", dir: "auto", textContent: question });
      button.onclick = () => {
        // Under a message that is not the last they go (chat.css), and would take the focus with them. A phone's
        // keyboard comes up only for who has one in use.
        if (className.includes("suggestions"))
          (button.matches(":focus-visible") ? this.parts.text : this.parts.log).focus();
        this.ask(question);
      };
      list.append(make("li", {}, button));
    }
    return list;
  }

  // What happens

  #listen() {
    const on = (name, hear) => this.connection.addEventListener(name, (event) => hear(event.detail));
    on("message", ({ message, isNews }) => this.#put(message, isNews));
    on("done", ({ message }) => this.#done(message));
    on("gone", ({ id }) => this.#remove(id));
    on("pending", ({ clientId, text }) => this.#drawPending(clientId, text));
    on("settled", ({ clientId }) => this.#settled(clientId));
    on("handover", (handover) => this.#showHandover(handover));
    on("rated", ({ rating }) => this.ending.mark(rating));
    on("ended", () => this.connection.rating || this.#hasEnded());
    on("waiting", (place) => this.#showPlace(place));
    on("status", (status) => this.#showStatus(status));
    on("refused", (refusal) => this.#refused(refusal));
    on("offline", () => this.#offline());
    on("online", () => this.#online());
    on("ready", () => this.#showButtons());
    on("forgotten", ({ isDeleted }) => this.#empty(isDeleted));
    document.addEventListener("keydown", (event) => this.#key(event));
    window.visualViewport?.addEventListener("resize", () => this.#fit());
    window.visualViewport?.addEventListener("scroll", () => this.#fit());
  }

  #listenToParts(panel) {
    const { composer, text, stop, newer, log, person } = this.parts;
    composer.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#submit();
      }
    });
    text.addEventListener("input", () => {
      this.parts.problem.textContent = "";
      this.#saveDraft();
      this.#showButtons();
      this.connection.type();
    });
    stop.onclick = () => this.connection.stop();
    newer.onclick = () => this.#scrollToEnd();
    person.onclick = () => this.#askForPerson();
    log.addEventListener("scroll", () => this.#scrolled());
    const sizes = new ResizeObserver(() => {
      if (this.isFollowing) this.#scrollToEnd();
    });
    for (const element of [log, ...log.children]) sizes.observe(element);
    // The host page has shortcuts of its own; what is typed here is none of them.
    for (const name of ["keydown", "keyup", "keypress"]) panel.addEventListener(name, (event) => this.#inside(event));
  }

  #inside(event) {
    if (event.type === "keydown") this.#key(event);
    event.stopPropagation();
  }

  #key(event) {
    if (event.defaultPrevented || !this.isOpen) return;
    const isInside = event.composedPath().includes(this);
    const { stop, options } = this.parts;
    if (event.key === "Escape" && !stop.hidden && (isInside || this.isPage)) this.connection.stop();
    else if (event.key === "Escape" && options?.open && (isInside || this.isPage)) {
      options.open = false;
      options.querySelector("summary").focus();
    } else if (event.key === "Escape" && isInside) this.close();
    else if (event.key === "F6" && (isInside || this.isPage)) {
      event.preventDefault();
      (this.shadowRoot.activeElement === this.parts.text ? this.parts.log : this.parts.text).focus();
    }
  }

  #submit() {
    const text = this.parts.text.value.trim();
    const num = [...text].length;
    if (!text) return;
    if (num > this.config.maxChars) {
      // The server says the same; asking it would only take the text away for a moment.
      this.parts.problem.textContent = filled(this.texts.tooLong, { num, max: this.config.maxChars });
      return;
    }
    this.parts.text.value = "";
    this.#saveDraft();
    this.ask(text);
  }

  #saveDraft() {
    this.memory.remember("draft", this.parts.text.value || null, "sessionStorage");
  }

  #askForPerson() {
    this.connection.askForPerson();
    this.#emit("person");
  }

  #settled(clientId) {
    this.#pending(clientId)?.remove();
    this.#goOn();
    if (this.connection.handover) this.#announce(this.texts.passedOn);
  }

  #showHandover(handover) {
    const { messages, person, subtitle } = this.parts;
    const active = this.shadowRoot.activeElement;
    if (handover && !this.people.handover) this.ending.hide();
    this.people.show(handover);
    person.hidden = Boolean(handover);
    const isTaken = handover?.state === "taken";
    messages.classList.toggle("passed-on", Boolean(handover));
    subtitle.textContent = isTaken ? filled(this.texts.personAnswers, { name: handover.agent }) : this.config.subtitle;
    this.#keepFocus(active);
    this.#showButtons();
  }

  #refused({ text, code, returned, seconds }) {
    if (code === "bad_email") {
      this.people.refuse(text);
      return;
    }
    const box = this.parts.text;
    if (returned) {
      box.value = box.value ? `${returned}\n${box.value}` : returned;
      this.#saveDraft();
    }
    this.parts.problem.textContent = text;
    clearTimeout(this.waitTimer);
    this.waitText = seconds ? text : "";
    if (seconds) this.waitTimer = setTimeout(() => this.#goOn(), seconds * 1_000);
  }

  // To wait need no longer be said.
  #goOn() {
    const { problem } = this.parts;
    if (problem.textContent === this.waitText) problem.textContent = "";
  }

  #show() {
    this.panel.hidden = false;
    this.unread = 0;
    this.#labelLauncher();
    this.#fit();
    this.#scrollToEnd();
  }

  // A phone's keyboard may cover the page without making it smaller; the panel then keeps to what is seen. Who magnifies
  // the page with two fingers wants it as large as it is.
  #fit() {
    const seen = window.visualViewport;
    if (!seen) return;
    const isCovered = seen.height * seen.scale < document.documentElement.clientHeight - MIN_KEYBOARD_PIXELS;
    const values = isCovered ? [`${seen.height * seen.scale}px`, `${seen.offsetTop}px`] : [null, null];
    this.panel.style.setProperty("--seen-block", values[0]);
    this.panel.style.setProperty("--seen-top", values[1]);
  }

  #forgetWhenIdle() {
    let timer = 0;
    const touched = () => {
      clearTimeout(timer);
      // Who waits for an answer is still there, and wants to read it.
      timer = setTimeout(() => {
        const { isReady, isWriting } = this.connection;
        if (isReady && isWriting) touched();
        else this.#forget();
      }, this.kioskSeconds * 1_000);
    };
    for (const name of ["pointerdown", "keydown", "touchstart"]) addEventListener(name, touched, true);
    // What has just been answered is yet to be read.
    this.connection.addEventListener("done", touched);
    touched();
  }

  #forget() {
    this.connection.forget();
    this.parts.text.value = "";
    this.#saveDraft();
    this.parts.problem.textContent = "";
    this.parts.announcer.textContent = "";
  }

  #emit(name, detail = {}) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  // Messages

  #item(id) {
    return this.shadowRoot.getElementById(`message-${id}`);
  }

  #pending(clientId) {
    return this.parts.messages.querySelector(`[data-client="${CSS.escape(clientId)}"]`);
  }

  #put(message, isNews) {
    this.#drawMessage(message);
    if (isNews && message.role === "user") this.ending.hide();
    if (this.isFollowing) this.#scrollToEnd();
    else if (isNews) this.parts.newer.hidden = false;
    this.#showButtons();
    this.#emit("message", message);
  }

  #empty(isDeleted) {
    const { messages } = this.parts;
    messages.replaceChildren();
    this.ending.hide();
    if (isDeleted) {
      const notice = this.#emptyItem("system");
      notice.querySelector(".bubble").textContent = this.texts.forgotten;
      messages.append(notice);
      this.#announce(this.texts.forgotten);
    }
    for (const [clientId, text] of this.connection.unsent) this.#drawPending(clientId, text);
    this.#showButtons();
  }

  #done(message) {
    const spoken = this.#item(message.id)?.querySelector(".bubble").innerText || message.text;
    this.#announce([message.author, spoken, ...(message.suggestions ?? [])].filter(Boolean).join(" "));
    if (!this.isOpen) {
      this.unread += 1;
      this.#labelLauncher();
    }
  }

  #drawMessage(message) {
    const item = this.#item(message.id) ?? this.#newItem(message);
    const isUnfinished = isWriting(message);
    const { text, html } = isUnfinished && this.isWhole ? { text: "", html: "" } : message;
    item.classList.toggle("writing", isUnfinished && text !== "");
    item.classList.toggle("waiting", isUnfinished && text === "");
    item.setAttribute("aria-busy", String(isUnfinished));
    const bubble = item.querySelector(".bubble");
    if (message.language) bubble.lang = message.language;
    if (html) bubble.replaceChildren(fromHtml(html, { withLinks: !this.kioskSeconds }));
    else bubble.textContent = text;
    bubble.classList.toggle("plain", !html || message.role === "agent");
    bubble.hidden = text === "" && !isUnfinished;
    const meta = item.querySelector(".meta");
    meta.replaceChildren(this.#noteOf(message));
    if (["cancelled", "error"].includes(message.finish_reason) && !this.#isAskedAgain(message.id))
      meta.append(" ", this.#retryButton(message));
    if (message.client_id?.startsWith("again-")) this.#item(message.client_id.slice(6))?.querySelector(".again")?.remove();
    if (message.finish_reason && message.role === "assistant") this.#drawBelow(item, message);
  }

  #noteOf(message) {
    if (this.isWhole && isWriting(message)) return this.texts.writing;
    const time = this.#timeOf(message.at);
    return this.#endNote(message) || (message.author ? `${message.author} · ${time}` : time);
  }

  #newItem(message) {
    const item = this.#emptyItem(message.role, message.author);
    item.id = `message-${message.id}`;
    item.dataset.at = message.at;
    const { messages } = this.parts;
    const later = [...messages.children].find((other) => Number(other.id.slice(8)) > message.id);
    messages.insertBefore(item, later ?? messages.querySelector("[data-client]"));
    this.#drawDays();
    return item;
  }

  #remove(id) {
    this.#item(id)?.remove();
    this.#drawDays();
  }

  // Above the first message of each day. Where nothing is older than today, it goes without saying.
  #drawDays() {
    const { messages } = this.parts;
    for (const line of messages.querySelectorAll(".day")) line.remove();
    let day = new Date().toDateString();
    for (const item of messages.querySelectorAll("[data-at]")) {
      const date = new Date(item.dataset.at);
      if (date.toDateString() !== day) item.before(make("li", { className: "day", textContent: this.#nameOf(date) }));
      day = date.toDateString();
    }
  }

  #nameOf(date) {
    const year = date.getFullYear() === new Date().getFullYear() ? undefined : "numeric";
    return date.toLocaleDateString(this.config.language, { weekday: "long", day: "numeric", month: "long", year });
  }

  #emptyItem(role, author = "") {
    const names = { agent: author, user: this.texts.you, assistant: this.texts.assistant, system: this.texts.notice };
    return make(
      "li",
      { className: `message ${role}` },
      make("span", { className: "visually-hidden", textContent: names[role] }),
      make("div", { className: "bubble plain", dir: "auto" }),
      make("p", { className: "meta" }),
    );
  }

  #drawPending(clientId, text) {
    const item = this.#emptyItem("user");
    item.dataset.client = clientId;
    item.querySelector(".bubble").textContent = text;
    this.parts.messages.append(item);
    this.#showUnderWay();
    this.#scrollToEnd();
  }

  #showUnderWay() {
    const text = this.parts.banner.hidden || this.connection.isReady ? this.texts.sending : this.texts.unsent;
    for (const meta of this.parts.messages.querySelectorAll("[data-client] .meta")) meta.textContent = text;
  }

  // What stands under a finished answer: on what it rests, what may be asked instead, and what the customer thinks of it.
  #drawBelow(item, message) {
    for (const line of item.querySelectorAll(".source")) line.remove();
    item.querySelector(".suggestions")?.remove();
    const below = [];
    if (message.source && message.finish_reason === "stop") below.push(this.#sourceLine(message.source));
    if (message.suggestions?.length && message.finish_reason === "stop")
      below.push(this.#questions(message.suggestions, this.texts.suggestions, "starters suggestions"));
    if (message.note) below.unshift(make("p", { className: "source note", textContent: message.note, dir: "auto" }));
    item.querySelector(".meta").after(...below);
    if (message.finish_reason === "error") return;
    if (!item.querySelector(".actions")) {
      const copy = message.text ? this.#copyButton(item) : [];
      item.append(make("div", { className: "actions" }, this.#rating(message.id), ...copy));
    }
    if (message.offers_person && !item.querySelector(".offer")) item.append(this.#personOffer());
    this.#showRating(item, message.feedback);
  }

  // A browser may have no clipboard, and a screen for everybody leaves nothing in it.
  #copyButton(item) {
    if (!navigator.clipboard || this.kioskSeconds) return [];
    const done = make("span", { className: "copied", hidden: true, ariaHidden: "true", textContent: this.texts.copied });
    let timer = 0;
    const copy = async () => {
      await navigator.clipboard.writeText(item.querySelector(".bubble").innerText);
      done.hidden = false;
      this.#announce(this.texts.copied);
      clearTimeout(timer);
      timer = setTimeout(() => (done.hidden = true), COPIED_MS);
    };
    // Where the browser forbids it, nothing is copied and nothing said.
    return [this.#iconButton("copy", this.texts.copy, () => copy().catch(() => {})), done];
  }

  #sourceLine({ question, revised }) {
    const date = new Date(revised).toLocaleDateString(this.config.language, { dateStyle: "long" });
    const parts = [this.texts.verified, question];
    if (revised) parts.push(filled(this.texts.revised, { date }));
    return make("p", { className: "source", textContent: parts.join(" · "), dir: "auto" });
  }

  #personOffer() {
    const button = make("button", { type: "button", className: "starter offer", textContent: this.texts.person });
    button.onclick = () => this.#askForPerson();
    return button;
  }

  // A reply that never began may say itself why.
  #endNote(message) {
    const interrupted = message.seq || !message.text ? this.texts.interrupted : "";
    const notes = { cancelled: this.texts.stopped, length: this.texts.cut, error: interrupted };
    return notes[message.finish_reason] ?? "";
  }

  #timeOf(at) {
    return new Date(at).toLocaleTimeString(this.config.language, { hour: "2-digit", minute: "2-digit" });
  }

  #isAskedAgain(id) {
    return [...this.connection.messages.values()].some((other) => other.client_id === `again-${id}`);
  }

  // However often and on however many pages it is pressed, the question is asked once more.
  #retryButton(message) {
    const onclick = () => {
      const earlier = [...this.connection.messages.values()].filter((other) => other.role === "user" && other.id < message.id);
      const asked = earlier.sort((one, other) => one.id - other.id).pop();
      if (!asked) return;
      this.ask(asked.text, `again-${message.id}`);
      // The button goes when the question arrives.
      this.parts.log.focus();
    };
    return make("button", { type: "button", className: "again", textContent: this.texts.retry, onclick });
  }

  // Ratings

  #rating(id) {
    const group = make("div", { className: "rating", attributes: { role: "group", "aria-label": this.texts.rate } });
    for (const [rating, label] of [["up", this.texts.helpful], ["down", this.texts.unhelpful]]) {
      const button = this.#iconButton(rating, label, () => this.#rate(id, button.ariaPressed === "true" ? null : rating));
      button.ariaPressed = "false";
      group.append(button);
    }
    return group;
  }

  #rate(id, rating) {
    this.connection.rate(id, rating);
    this.#announce(rating ? this.texts.thanks : this.texts.undone);
  }

  #showRating(item, feedback) {
    for (const rating of ["up", "down"])
      item.querySelector(`.rating .${rating}`).ariaPressed = String(feedback?.rating === rating);
    const form = item.querySelector(".reasons");
    if (feedback?.rating !== "down") {
      form?.remove();
      return;
    }
    const shown = form ?? this.#reasonForm(Number(item.id.slice(8)));
    for (const box of shown.querySelectorAll("[type=checkbox]")) box.checked = feedback.reasons.includes(box.value);
    if (!form) {
      shown.querySelector("textarea").value = feedback.text;
      if (feedback.text || feedback.reasons.length) this.#fold(shown, true);
      item.querySelector(".actions").after(shown);
      if (this.#isAtEnd(400)) this.#scrollToEnd();
    }
  }

  #reasonForm(id) {
    const text = make("textarea", { rows: 2, maxLength: this.config.maxFeedbackChars, dir: "auto", id: `why-${id}` });
    const form = make("form");
    const change = make("button", { type: "button", className: "starter", textContent: this.texts.changeFeedback });
    const said = make("div", { className: "said", hidden: true }, make("p", { textContent: this.texts.thanks }), change);
    const whole = make("div", { className: "reasons" }, form, said);
    const save = () => {
      const reasons = [...form.querySelectorAll(":checked")].map((box) => box.value);
      this.connection.rate(id, "down", reasons, text.value.trim());
    };
    const chips = make("fieldset", {}, make("legend", { textContent: this.texts.why }));
    for (const reason of REASONS) {
      const box = make("input", { type: "checkbox", value: reason, onchange: save });
      chips.append(make("label", { className: "chip" }, box, this.texts.reasons[reason]));
    }
    form.onsubmit = (event) => {
      event.preventDefault();
      save();
      this.#fold(whole, true);
      change.focus();
      this.#announce(this.texts.thanks);
    };
    change.onclick = () => {
      this.#fold(whole, false);
      form.querySelector("input").focus();
    };
    form.append(
      chips,
      make("label", { htmlFor: text.id, textContent: this.texts.inYourWords }),
      text,
      make("button", { type: "submit", className: "starter", textContent: this.texts.sendFeedback }),
    );
    return whole;
  }

  // What was said of an answer takes no room; it can still be changed.
  #fold(reasons, isFolded) {
    reasons.querySelector("form").hidden = isFolded;
    reasons.querySelector(".said").hidden = !isFolded;
  }

  // What the page says of itself

  #showPlace({ id, place }) {
    const message = this.connection.messages.get(id);
    if (!message || message.text || message.finish_reason) return;
    const note = place ? filled(this.texts.waiting, { place }) : this.#noteOf(message);
    this.#item(id).querySelector(".meta").textContent = note;
  }

  #showStatus(status) {
    const wasLive = this.isLive;
    this.isLive = status.live;
    this.parts.learning.hidden = this.isLive;
    if (this.isLive) {
      if (wasLive === false) this.#announce(this.texts.live);
      return;
    }
    const { run } = status;
    this.parts["learning-text"].textContent = run ? filled(this.texts.learning, run) : this.texts.notYet;
    this.parts["learning-progress"].hidden = !run;
    if (run) this.parts["learning-progress"].value = run.percent;
  }

  #offline() {
    this.#showBanner(this.texts.offline);
    this.#showUnderWay();
  }

  #online() {
    const { banner } = this.parts;
    if (banner.hidden) return;
    this.#showUnderWay();
    this.#showBanner(this.texts.online);
    setTimeout(() => (banner.hidden = true), ONLINE_MS);
  }

  #showBanner(text) {
    this.parts.banner.textContent = text;
    this.parts.banner.hidden = false;
  }

  #labelLauncher() {
    if (!this.isFloating) return;
    this.badge.hidden = !this.unread;
    this.badge.textContent = this.unread || "";
    const { close, open, openUnread } = this.texts;
    this.launcher.querySelector("svg").replaceWith(icon(this.isOpen ? "close" : "chat"));
    this.launcher.setAttribute("aria-expanded", String(this.isOpen));
    const label = this.isOpen ? close : this.unread ? filled(openUnread, { num: this.unread }) : open;
    this.launcher.setAttribute("aria-label", label);
  }

  #announce(text) {
    this.parts.announcer.textContent = text;
  }

  #isAtEnd(within = 40) {
    const { log } = this.parts;
    return log.scrollHeight - log.scrollTop - log.clientHeight < within;
  }

  #scrollToEnd() {
    this.isFollowing = true;
    this.#scrollTo(this.parts.log.scrollHeight);
    this.parts.newer.hidden = true;
  }

  #scrollTo(top) {
    this.parts.log.scrollTop = top;
    this.scrolledTo = this.parts.log.scrollTop;
  }

  // Only readers scroll up; that the end went down meanwhile is none of their doing.
  #scrolled() {
    const { log, newer } = this.parts;
    if (this.#isAtEnd()) {
      this.isFollowing = true;
      newer.hidden = true;
    } else if (log.scrollTop < this.scrolledTo) this.isFollowing = false;
    this.scrolledTo = log.scrollTop;
  }

  #showButtons() {
    const { stop, send, text, forget, end, anew } = this.parts;
    const { isWriting: isAnswering, messages, handover } = this.connection;
    const active = this.shadowRoot.activeElement;
    stop.hidden = !isAnswering;
    send.hidden = isAnswering && !text.value.trim();
    if (forget) forget.hidden = !messages.size;
    // Who waits for people would lose their answer with the conversation. A screen for everybody forgets it anyway, and
    // it is better gone before the next one comes.
    const isKept = Boolean(handover) && !this.kioskSeconds;
    for (const button of [end, anew]) if (button) button.hidden = !messages.size || isKept;
    this.#keepFocus(active);
  }

  // What is hidden takes the focus with it, and the keyboard would begin again at the top of the page.
  #keepFocus(active) {
    if (active && !active.getClientRects().length) this.parts.text.focus();
  }
}

customElements.define("customer-chat", CustomerChat);
