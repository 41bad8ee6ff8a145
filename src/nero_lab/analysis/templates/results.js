"use strict";

// Open a record, and whatever it is folded into, and go there.
function showRecord(id) {
  const record = document.getElementById(id);
  if (!record) return;
  for (let node = record; node; node = node.parentElement) {
    if (node.tagName === "DETAILS") node.open = true;
  }
  record.scrollIntoView();
}

// Switch a variant off or on in all panels of its experiment.
function toggleVariant(button) {
  const shown = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(shown));
  for (const plot of button.closest("section").querySelectorAll(".js-plotly-plot")) {
    const traces = plot.data.flatMap((trace, i) => (trace.meta === button.dataset.variant ? [i] : []));
    if (traces.length) Plotly.restyle(plot, { visible: shown }, traces);
  }
}

// Each panel was drawn before those beside it were there to share the width.
for (const plot of document.querySelectorAll(".js-plotly-plot")) Plotly.Plots.resize(plot);

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => toggleVariant(button));
}
for (const plot of document.querySelectorAll(".js-plotly-plot")) {
  plot.on("plotly_click", (event) => {
    const id = event.points[0].customdata;
    if (id) location.hash = id;
    showRecord(id);
  });
}
window.addEventListener("hashchange", () => showRecord(location.hash.slice(1)));
showRecord(location.hash.slice(1));
