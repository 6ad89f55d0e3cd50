// Take out or delete the conversation whose key this browser has. The key goes in a header, never in an address.

const STORED = "chat.conversation";
const UNSENT = ["chat.draft", "chat.unsent", "chat.token"];
const texts = JSON.parse(document.getElementById("texts").textContent);
const own = document.getElementById("own");
const outcome = document.getElementById("outcome");

function recall() {
  try {
    return JSON.parse(localStorage.getItem(STORED)) ?? {};
  } catch {
    // The browser may forbid it, and somebody else may have written there.
    return {};
  }
}

function show() {
  const { conversation, token } = recall();
  own.hidden = !(conversation && token);
  if (own.hidden && !outcome.textContent) outcome.textContent = texts.none;
}

function forget() {
  localStorage.removeItem(STORED);
  for (const name of UNSENT) sessionStorage.removeItem(name);
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function act(what) {
  const { conversation, token } = recall();
  if (what === "delete" && !confirm(texts.confirm)) return;
  outcome.textContent = texts.working;
  const response = await fetch(own.dataset[what].replace("CONVERSATION", encodeURIComponent(conversation)), {
    method: what === "delete" ? "DELETE" : "GET",
    headers: { Authorization: `Bearer ${token}` },
  });
  if (!response.ok) {
    if (response.status === 404) forget();
    outcome.textContent = (await response.json()).error;
  } else if (what === "delete") {
    forget();
    outcome.textContent = texts.deleted;
  } else {
    const ending = what === "text" ? "txt" : "json";
    save(await response.blob(), `conversation-${conversation.slice(0, 8)}.${ending}`);
    outcome.textContent = texts.downloaded;
  }
}

own.addEventListener("click", async (event) => {
  const what = event.target.dataset.do;
  if (!what) return;
  try {
    await act(what);
  } catch {
    outcome.textContent = texts.failed;
  }
  show();
});
show();
