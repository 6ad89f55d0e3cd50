// Keeps the progress of a run in step with its row, and reloads the page once the run has ended or the queue has moved.
// Over a websocket; while that cannot be had, by asking.

import { drawCurve } from "./curve.js";

const room = document.querySelector("[data-status-url]");
const shown = room?.querySelector("[data-run]");
const CLOSE_FORBIDDEN = 4003;
const ASK_EVERY = 3_000;
let waitToConnect = 1_000;
let asking = null;

function show({ run, queue }) {
  const isWaiting = queue.some((id) => String(id) === shown.dataset.run);
  const isUnderWay = run && String(run.id) === shown.dataset.run;
  if (queue.join(" ") !== room.dataset.queue.trim() || !(isWaiting || isUnderWay)) {
    location.reload();
    return;
  }
  if (!isUnderWay) return;
  shown.querySelector("[data-field=phase]").textContent = run.phase_text;
  shown.querySelector("[data-field=percent]").textContent = run.percent;
  shown.querySelector("[data-field=steps]").textContent = run.max_steps ? ` · ${run.step} / ${run.max_steps}` : "";
  shown.querySelector("[data-field=left]").textContent = run.left_text;
  shown.querySelector("progress").value = run.percent;
  drawCurve(run.curve, run.memory_mb);
  showLog(run.log);
}

// Only what is new is added, so that a screen reader reads each line once.
function showLog(lines) {
  const log = document.getElementById("log");
  if (!log) return;
  const box = log.parentElement;
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 8;
  const kept = new Set(lines.map(({ id }) => String(id)));
  const known = new Set();
  for (const item of [...log.children]) {
    if (kept.has(item.dataset.line)) known.add(item.dataset.line);
    else item.remove();
  }
  for (const line of lines) {
    if (known.has(String(line.id))) continue;
    const item = document.createElement("li");
    const time = document.createElement("time");
    item.dataset.line = line.id;
    time.dateTime = line.at;
    time.textContent = line.time;
    item.append(time, ` ${line.text}`);
    log.append(item);
  }
  if (isAtEnd) box.scrollTop = box.scrollHeight;
}

async function ask() {
  try {
    const response = await fetch(room.dataset.statusUrl, { headers: { Accept: "application/json" } });
    if (response.ok) show(await response.json());
  } catch {
    // Offline: the next round asks again.
  }
}

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/training/`);
  socket.onmessage = (event) => {
    clearInterval(asking);
    asking = null;
    waitToConnect = 1_000;
    show(JSON.parse(event.data));
  };
  socket.onclose = (event) => {
    if (event.code === CLOSE_FORBIDDEN) {
      location.reload();
      return;
    }
    asking ??= setInterval(ask, ASK_EVERY);
    setTimeout(connect, waitToConnect);
    waitToConnect = Math.min(2 * waitToConnect, 30_000);
  };
}

if (shown) {
  const box = document.getElementById("log")?.parentElement;
  if (box) box.scrollTop = box.scrollHeight;
  connect();
}
