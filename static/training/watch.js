// Keeps the progress of a run in step with its row, and reloads the page once the run has ended.
// Over a websocket; while that cannot be had, by asking.

import { drawCurve } from "./curve.js";

const room = document.querySelector("[data-status-url]");
const shown = room?.querySelector("[data-run]");
const CLOSE_FORBIDDEN = 4003;
const ASK_EVERY = 3_000;
let waitToConnect = 1_000;
let asking = null;

function show(run) {
  if (!run || String(run.id) !== shown.dataset.run || !run.is_active) {
    location.reload();
    return;
  }
  shown.querySelector("[data-field=phase]").textContent = run.phase_text;
  shown.querySelector("[data-field=percent]").textContent = run.percent;
  shown.querySelector("[data-field=steps]").textContent = run.max_steps ? ` · ${run.step} / ${run.max_steps}` : "";
  shown.querySelector("[data-field=left]").textContent = run.left_text;
  shown.querySelector("progress").value = run.percent;
  drawCurve(run.curve, run.memory_mb);
}

async function ask() {
  try {
    const response = await fetch(room.dataset.statusUrl, { headers: { Accept: "application/json" } });
    if (response.ok) show((await response.json()).run);
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
    show(JSON.parse(event.data).run);
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

if (shown) connect();
