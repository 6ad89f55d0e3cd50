// Keeps the progress of a run in step with its row, and reloads the page once the run has ended.

const room = document.querySelector("[data-status-url]");
const shown = room?.querySelector("[data-run]");

async function look() {
  let wait = 1_500;
  try {
    const response = await fetch(room.dataset.statusUrl, { headers: { Accept: "application/json" } });
    if (response.ok) {
      const { run } = await response.json();
      if (!run || String(run.id) !== shown.dataset.run || !run.is_active) {
        location.reload();
        return;
      }
      shown.querySelector("[data-field=phase]").textContent = run.phase_text;
      shown.querySelector("[data-field=percent]").textContent = run.percent;
      shown.querySelector("[data-field=steps]").textContent = run.max_steps ? ` · ${run.step} / ${run.max_steps}` : "";
      shown.querySelector("progress").value = run.percent;
    } else {
      wait = 10_000;
    }
  } catch {
    wait = 10_000;
  }
  setTimeout(look, wait);
}

if (shown) setTimeout(look, 1_000);
