// The threshold's slider over the exam's real figures.

const slider = document.getElementById("threshold");
if (slider) {
  const table = JSON.parse(document.getElementById("thresholds").textContent);
  const percent = new Intl.NumberFormat(document.documentElement.lang || "es", { style: "percent" });
  const show = () => {
    const row = table.reduce((nearest, each) =>
      Math.abs(each.threshold - slider.value) < Math.abs(nearest.threshold - slider.value) ? each : nearest,
    );
    document.getElementById("threshold-value").textContent = percent.format(row.threshold);
    for (const figure of document.querySelectorAll("[data-figure]")) {
      const value = row[figure.dataset.figure];
      figure.textContent = value === null ? "–" : percent.format(value);
    }
  };
  slider.addEventListener("input", show);
  show();
}
