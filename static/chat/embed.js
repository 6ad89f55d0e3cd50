// The chat on another website: what widget.js loads from the chat's own server.

import { Connection } from "./connection.js";
import { Memory } from "./memory.js";
import "./view.js";

// Returns the host page's window.CustomerChat (widget.js describes it).
export async function embed({ base, site, language, kioskSeconds }) {
  const config = await load(base, site, language);
  const memory = new Memory(`customer-chat.${site}.`);
  const connection = new Connection({ base, site, language: config.language, memory });
  const chat = document.createElement("customer-chat");
  // Beside the body, whose own style, filters and frameworks then do not concern it.
  document.documentElement.append(chat);
  chat.setUp({ config, connection, memory, kioskSeconds });
  return {
    open: () => chat.open(),
    close: () => chat.close(),
    send: (text) => {
      chat.open();
      chat.ask(String(text).slice(0, config.maxChars));
    },
    identify: (who) => connection.identify(who ?? {}),
    setLocale: async (code) => chat.translate(await load(base, site, code)),
    on: (event, hear) => chat.addEventListener(event, ({ detail }) => hear(detail)),
  };
}

async function load(base, site, language) {
  const address = new URL("chat/config.json", base);
  address.search = new URLSearchParams({ site, language });
  // To pages of no site browsers show no answer at all.
  const answer = await fetch(address, { credentials: "omit" }).catch(() => null);
  if (answer?.ok) return answer.json();
  throw new Error(
    `not shown, since ${base} gave it no settings. Either no active site has the key data-site="${site}", or this page's ` +
      `address, ${location.origin}, is not among the addresses of that site in the admin, or the server cannot be reached.`,
  );
}
