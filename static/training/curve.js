// The run's two curves as lines, with their last values as text.

const WIDTH = 600;
const HEIGHT = 160;
const MARGIN = 4;

export function drawCurve(points, memory) {
  const figure = document.getElementById("curve");
  if (!figure) return;
  const values = points.flatMap(([, learned, heldOut]) => [learned, heldOut]).filter((value) => value !== null);
  const highest = Math.max(...values, 0.001);
  const last = Math.max(...points.map(([step]) => step), 1);
  const series = { learned: 1, "held-out": 2 };
  for (const [name, place] of Object.entries(series)) {
    const own = points.filter((point) => point[place] !== null);
    const corners = own.map(
      (point) =>
        `${((point[0] / last) * WIDTH).toFixed(1)},${(HEIGHT - MARGIN - (point[place] / highest) * (HEIGHT - 2 * MARGIN)).toFixed(1)}`,
    );
    figure.querySelector(`polyline.${name}`).setAttribute("points", corners.join(" "));
    if (own.length) {
      const texts = [own[0], own.at(-1)].map((point) => point[place].toFixed(2));
      figure.querySelector(`[data-curve="${name}"]`).textContent = own.length > 1 ? texts.join(" → ") : texts[0];
    }
  }
  if (memory) figure.querySelector('[data-curve="memory"]').textContent = memory;
}

const stored = document.getElementById("curve-points");
if (stored) drawCurve(JSON.parse(stored.textContent));
