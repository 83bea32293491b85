(function () {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const colors = 8;
  let plots = [];

  function css(name) {
    const style = getComputedStyle(document.documentElement);
    return style.getPropertyValue(name).trim();
  }

  function line(series) {
    const color = css("--c" + (series.color % colors));
    const found = { label: series.label, stroke: color, spanGaps: true };
    if (series.style === "raw") {
      return { ...found, stroke: color + "55", width: 1, points: { show: false } };
    }
    const points = series.style === "points" || series.x.length < 3;
    if (series.style === "points") found.dash = [6, 4];
    return { ...found, width: 2, points: { show: points, size: 6, fill: color } };
  }

  function figure(value) {
    if (value == null) return "";
    const rounded = Number(value.toPrecision(4));
    const size = Math.abs(rounded);
    return size && size < 1e-3 ? rounded.toExponential() : String(rounded);
  }

  function draw() {
    plots.forEach((plot) => plot.destroy());
    plots = charts.map((chart) => {
      const place = document.getElementById("chart-" + chart.id);
      const data = uPlot.join(chart.series.map((s) => [s.x, s.y]));
      const axis = {
        stroke: css("--muted"),
        grid: { stroke: css("--line"), width: 1 },
        ticks: { stroke: css("--line"), width: 1 },
      };
      const options = {
        width: place.clientWidth,
        height: 260,
        scales: { x: { time: false } },
        axes: [
          axis,
          { ...axis, size: 62, values: (u, ticks) => ticks.map(figure) },
        ],
        series: [{ label: "step" }].concat(
          chart.series.map((s) => ({
            ...line(s),
            value: (u, value) => figure(value) || "--",
          }))
        ),
      };
      return new uPlot(options, data, place);
    });
  }

  function fit() {
    plots.forEach((plot) => {
      const width = plot.root.parentElement.clientWidth;
      if (width !== plot.width) plot.setSize({ width, height: plot.height });
    });
  }

  draw();
  addEventListener("resize", fit);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  const slider = document.getElementById("steps");
  if (slider) {
    const steps = slider.dataset.steps.split(" ");
    slider.addEventListener("input", () => {
      const index = Number(slider.value);
      document.getElementById("step").textContent = steps[index];
      document.querySelectorAll(".timeline").forEach((timeline) => {
        timeline.querySelector(".now").textContent = steps[index];
        timeline.querySelectorAll("img").forEach((image) => {
          image.hidden = Number(image.dataset.index) !== index;
        });
      });
    });
  }
})();
