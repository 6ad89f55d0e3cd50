// What stands above the box while people have the conversation: with whom, and the ways out.

import { filled, make } from "./drawing.js";

export class PeopleBar {
  constructor(texts, connection) {
    this.texts = texts;
    this.handover = null;
    // The address that was left is being written anew.
    this.isCorrecting = false;
    this.note = make("p", { className: "note", dir: "auto" });
    this.problem = make("p", { id: "email-problem", className: "problem", attributes: { role: "alert" } });
    this.email = make("input", { id: "email", type: "email", autocomplete: "email", required: true, maxLength: 254 });
    Object.assign(this.email, { inputMode: "email", enterKeyHint: "send", autocapitalize: "none" });
    this.email.setAttribute("aria-describedby", "email-problem");
    this.email.oninput = () => (this.problem.textContent = "");
    const send = make("button", { type: "submit", className: "starter", textContent: texts.leaveEmail });
    const label = make("label", { htmlFor: "email", textContent: texts.emailLabel });
    // The server says what is wrong with it, in the reader's language.
    this.form = make("form", { className: "email", noValidate: true, hidden: true }, label, this.email, send, this.problem);
    this.form.onsubmit = (event) => {
      event.preventDefault();
      connection.leaveEmail(this.email.value);
      if (!this.isCorrecting) return;
      this.#correct(false);
      this.change.focus();
    };
    this.change = make("button", { type: "button", id: "change-email", className: "starter", textContent: texts.changeEmail });
    this.change.onclick = () => {
      this.email.value = this.handover.email;
      this.#correct(true);
      this.email.focus();
    };
    const back = make("button", { type: "button", className: "starter", textContent: texts.leavePeople });
    back.onclick = () => {
      if (confirm(texts.confirmLeavePeople)) connection.leavePeople();
    };
    this.element = make("section", { className: "people", hidden: true, ariaLabel: texts.people });
    this.element.append(this.note, this.form, this.change, back);
  }

  show(handover) {
    this.handover = handover;
    this.element.hidden = !handover;
    if (!handover) {
      // Nobody else is to read it who asks for a person here.
      this.email.value = "";
      this.problem.textContent = "";
    }
    this.#correct(this.isCorrecting && Boolean(handover?.email));
    if (!handover) return;
    const parts = [handover.reference, handover.note];
    if (handover.email) parts.push(filled(this.texts.emailLeft, { email: handover.email }));
    this.note.textContent = parts.join(" · ");
  }

  refuse(text) {
    this.#correct(Boolean(this.handover?.email));
    this.problem.textContent = text;
    this.email.focus();
  }

  #correct(isCorrecting) {
    this.isCorrecting = isCorrecting;
    this.form.hidden = !isCorrecting && !this.handover?.asks_for_email;
    this.change.hidden = isCorrecting || !this.handover?.email;
  }
}
