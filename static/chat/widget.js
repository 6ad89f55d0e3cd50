// <script async src="https://chat.example.com/widget.js" data-site="KEY"></script>
//
// data-site      the website's key, from the admin
// data-language  es or en; without it the page's language
// data-kiosk     full screen, without links, and the conversation is forgotten after so many seconds without a touch
//
// window.CustomerChat   open()  close()  send(text)  identify({name, email})  setLocale(code)  on(event, fn)
// Events: open, close, message (a message, again whenever it grows), person (a person was asked for).
// It works at once: what is called before the chat is there is done when it is.

(() => {
  if (window.CustomerChat) return;
  const script = document.currentScript;
  const { site = "", language, kiosk } = script.dataset;
  const base = new URL("./", script.src).href;
  const kioskSeconds = kiosk === undefined ? 0 : Number(kiosk) || 120;
  const spoken = language || document.documentElement.lang || navigator.language;
  const loaded = import(`${base}static/chat/embed.js`).then(({ embed }) =>
    embed({ base, site, language: spoken, kioskSeconds }),
  );
  // The page goes on without it.
  loaded.catch((error) => console.warn("customer chat:", error.message));
  window.CustomerChat = Object.fromEntries(
    ["open", "close", "send", "identify", "setLocale", "on"].map((name) => [
      name,
      (...values) => loaded.then((chat) => chat[name](...values)).catch(() => undefined),
    ]),
  );
})();
