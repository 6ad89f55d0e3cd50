// Small pieces that the view is made of.

// An element with properties, attributes (in `attributes`) and children.
export function make(tag, { attributes = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Django's placeholders, as the texts come with them.
export function filled(text, values) {
  return text.replace(/%\((\w+)\)[sd]|%%/g, (mark, name) => (mark === "%%" ? "%" : values[name]));
}

const PATHS = {
  chat: "M5 3h14a4 4 0 0 1 4 4v6a4 4 0 0 1-4 4h-7l-6 5v-5H5a4 4 0 0 1-4-4V7a4 4 0 0 1 4-4z",
  close: "M5.6 4.2 12 10.6l6.4-6.4 1.4 1.4-6.4 6.4 6.4 6.4-1.4 1.4-6.4-6.4-6.4 6.4-1.4-1.4 6.4-6.4-6.4-6.4z",
  send: "M3 3.5 22 12 3 20.5 5.5 13 14 12 5.5 11z",
  stop: "M6 6h12v12H6z",
  person: "M12 12a5 5 0 1 0 0-10 5 5 0 0 0 0 10zm-9 10c0-5 4-8 9-8s9 3 9 8z",
  copy: "M15 5V3H4v13h2M9 8h11v13H9z",
  up: "M2 10h4v11H2zm6 0 5-8c2 0 3 1.300 2.600 3.200L15 8h5a2 2 0 0 1 2 2.400l-1.700 8.900A2 2 0 0 1 18.300 21H8z",
  down: "M2 14h4V3H2zm6 0 5 8c2 0 3-1.300 2.600-3.200L15 16h5a2 2 0 0 0 2-2.400l-1.700-8.900A2 2 0 0 0 18.300 3H8z",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

// Answers come as HTML that the server has reduced to an allow-list. It is read where nothing runs, and copied element by
// element through the same list, so that nothing else can come in even if the server were mistaken.

const TAGS = new Set("P BR STRONG EM CODE UL OL LI TABLE THEAD TBODY TR TH TD".split(" "));
const LINK = /^(https?:|mailto:|tel:)/i;
const plain = { createHTML: (html) => html };
const policy = window.trustedTypes?.createPolicy("customer-chat", plain) ?? plain;

export function fromHtml(html, { withLinks = true } = {}) {
  const read = new DOMParser().parseFromString(policy.createHTML(html), "text/html");
  const fragment = document.createDocumentFragment();
  copy(read.body, fragment, withLinks);
  return fragment;
}

function copy(from, to, withLinks) {
  for (const node of from.childNodes) {
    if (node.nodeType === Node.TEXT_NODE) to.append(node.data);
    if (node.nodeType !== Node.ELEMENT_NODE) continue;
    const target = copied(node, withLinks) ?? to;
    copy(node, target, withLinks);
    if (target === to) continue;
    // A wide table scrolls by itself, for the keyboard too.
    to.append(node.tagName === "TABLE" ? make("div", { className: "wide", tabIndex: 0 }, target) : target);
  }
}

function copied(node, withLinks) {
  if (node.tagName === "A" && withLinks && LINK.test(node.getAttribute("href") ?? "")) {
    const isPage = /^http/i.test(node.getAttribute("href"));
    return make("a", { href: node.getAttribute("href"), rel: "noopener noreferrer", target: isPage ? "_blank" : "" });
  }
  if (!TAGS.has(node.tagName)) return null;
  const element = make(node.tagName.toLowerCase());
  if (node.tagName === "OL" && /^\d{1,9}$/.test(node.getAttribute("start") ?? "")) element.start = node.getAttribute("start");
  return element;
}
