// What a browser remembers for the page. It may forbid that; then things last as long as the page.

export class Memory {
  constructor(prefix) {
    this.prefix = prefix;
  }

  recall(name, storage = "localStorage") {
    try {
      return JSON.parse(window[storage].getItem(this.prefix + name));
    } catch {
      return null;
    }
  }

  remember(name, value, storage = "localStorage") {
    try {
      if (value === null) window[storage].removeItem(this.prefix + name);
      else window[storage].setItem(this.prefix + name, JSON.stringify(value));
    } catch {
      // Nothing to be done.
    }
  }
}
