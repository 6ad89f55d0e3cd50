// What stands under a conversation that has ended: one tap says how it was. Whoever writes on simply goes on.

import { icon, make } from "./drawing.js";

export class Ending {
  // onRate: told "up", "down" or, to take it back, null. onAnew: asked for another conversation.
  constructor(texts, { onRate, onAnew }) {
    this.buttons = new Map();
    const rating = make("div", { className: "rating", attributes: { role: "group", "aria-labelledby": "ended" } });
    for (const [value, label] of [["up", texts.helpful], ["down", texts.unhelpful]]) {
      const button = make("button", { type: "button", className: "starter", ariaPressed: "false" }, icon(value), label);
      button.onclick = () => onRate(button.ariaPressed === "true" ? null : value);
      this.buttons.set(value, button);
      rating.append(button);
    }
    const anew = make("button", { type: "button", className: "starter", textContent: texts.anew, onclick: onAnew });
    const question = make("p", { id: "ended", textContent: texts.ended });
    this.element = make("div", { className: "ending", hidden: true }, question, rating, anew);
  }

  show(rating) {
    this.element.hidden = false;
    this.mark(rating);
  }

  hide() {
    this.element.hidden = true;
  }

  mark(rating) {
    for (const [value, button] of this.buttons) button.ariaPressed = String(value === rating);
  }

  focus() {
    this.buttons.get("up").focus();
  }
}
