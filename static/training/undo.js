// Counts down while a change of what is live can be undone; then the ordinary way back takes the button's place.

for (const undo of document.querySelectorAll("form[data-seconds]")) {
  const until = Date.now() + 1_000 * undo.dataset.seconds;
  const count = () => {
    const seconds = Math.ceil((until - Date.now()) / 1_000);
    if (seconds > 0) {
      undo.querySelector("[data-left]").hidden = false;
      undo.querySelector("[data-time]").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
      return;
    }
    clearInterval(counting);
    undo.hidden = true;
    const after = document.querySelector("[data-after-undo]");
    if (after) after.hidden = false;
  };
  const counting = setInterval(count, 1_000);
  count();
}
