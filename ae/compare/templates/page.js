"use strict";
// Draw the charts from the data in the page, and highlight the groups whose rows are clicked.

const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#17becf", "#8c564b", "#e377c2", "#bcbd22", "#3b3b98"];
const GREY = "#b5b5b5"; // all but the ten best
const LAYOUT = { margin: { l: 60, r: 20, t: 10, b: 45 }, showlegend: false, hovermode: "closest" };
const OPTIONS = { displaylogo: false, responsive: true, displayModeBar: false };
const chosen = new Set();
const groupsOf = {}; // the group of each trace, by chart

const colour = (group) => COLOURS[group] ?? GREY;
const SIGNS = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };
const escaped = (text) => String(text).replace(/[&<>]/g, (sign) => SIGNS[sign]); // Plotly renders some tags in text
const byId = (id) => document.getElementById(id);
const opacity = (group) => (chosen.size === 0 || chosen.has(group) ? 1 : 0.07);

function fill(select, names, first) {
  for (const name of names) select.add(new Option(name, name, false, name === first));
}

function draw(id, traces, layout) {
  groupsOf[id] = traces.map((trace) => trace.group);
  const faded = traces.map(({ group, ...trace }) => ({ ...trace, opacity: opacity(group) }));
  Plotly.react(id, faded.reverse(), { ...LAYOUT, ...layout }, OPTIONS); // draw the best last, on top
  groupsOf[id].reverse();
}

function drawCurves() {
  const metric = byId("curve").value;
  const traces = data.runs.filter((run) => metric in run.curves).map((run) => ({
    group: run.group, x: run.curves[metric][0], y: run.curves[metric][1],
    mode: run.curves[metric][0].length > 1 ? "lines" : "markers",
    line: { color: colour(run.group), width: 1.6 }, marker: { color: colour(run.group) },
    name: escaped(data.groups[run.group].name), text: escaped(run.name),
    hovertemplate: "%{y:.5g} at step %{x}<br>%{text}<extra>%{fullData.name}</extra>",
  }));
  const type = byId("log").checked ? "log" : "linear";
  draw("curves", traces, { xaxis: { title: { text: "step" } }, yaxis: { title: { text: escaped(metric) }, type } });
}

function scale(values, isReversed) { // to [0, 1]: numbers linearly, other values by rank
  const present = values.filter((value) => value !== null);
  if (present.every((value) => typeof value === "number")) {
    const low = Math.min(...present), high = Math.max(...present);
    const fraction = (value) => (high > low ? (value - low) / (high - low) : 0.5);
    const place = (value) => (value === null ? null : isReversed ? 1 - fraction(value) : fraction(value));
    return { place, ticks: [...new Set([low, high])] };
  }
  const ticks = [...new Set(present)].sort((a, b) => (typeof a === typeof b ? (a < b ? -1 : 1) : typeof a === "number" ? -1 : 1));
  return { place: (value) => (value === null ? null : ticks.length > 1 ? ticks.indexOf(value) / (ticks.length - 1) : 0.5), ticks };
}

function drawParallel() {
  const columns = [
    ...data.fields.map((field, i) => ({ name: field.short, values: data.groups.map((group) => group.settings[i]) })),
    ...data.metrics.map((metric, i) => ({ name: metric, values: data.groups.map((group) => group.means[i]), isReversed: !data.higher[metric] })),
  ];
  const scales = columns.map((column) => scale(column.values, column.isReversed));
  const short = (text) => (text.length > 24 ? `${text.slice(0, 23)}…` : text);
  const text = (value) => (typeof value === "number" ? Number(value.toPrecision(4)).toString() : escaped(short(value ?? "–")));
  const traces = data.groups.map((group, g) => ({
    group: g, x: columns.map((_, i) => i), y: columns.map((column, i) => scales[i].place(column.values[g])),
    text: columns.map((column) => `${escaped(column.name)}: ${text(column.values[g])}`), name: escaped(group.name),
    mode: "lines+markers", line: { color: colour(g), width: 2 }, marker: { size: 5 }, hovertemplate: "%{text}<extra>%{fullData.name}</extra>",
  }));
  const annotations = scales.flatMap(({ place, ticks }, i) => ticks.map((tick) => ({
    x: i, y: place(tick), text: text(tick), showarrow: false, xanchor: "left", xshift: 5, bgcolor: "rgba(255,255,255,0.75)", font: { size: 11 },
  })));
  const lines = columns.map((_, i) => ({ type: "line", x0: i, x1: i, y0: 0, y1: 1, line: { color: "#999", width: 1 }, layer: "below" }));
  const title = (name) => (name === data.sort ? `<b>${escaped(short(name))}</b>` : escaped(short(name)));
  draw("parallel", traces, {
    annotations, shapes: lines, yaxis: { visible: false, range: [-0.06, 1.06] }, margin: { l: 20, r: 60, t: 10, b: 70 },
    xaxis: { tickvals: columns.map((_, i) => i), ticktext: columns.map(({ name }) => title(name)), showgrid: false, zeroline: false },
  });
}

function drawScatter() {
  const [x, y] = [byId("x").value, byId("y").value].map((name) => data.metrics.indexOf(name));
  const traces = data.groups.map((group, g) => {
    const runs = data.runs.filter((run) => run.group === g && run.metrics[x] !== null && run.metrics[y] !== null);
    return {
      group: g, x: runs.map((run) => run.metrics[x]), y: runs.map((run) => run.metrics[y]), text: runs.map((run) => escaped(run.name)),
      mode: "markers", marker: { color: colour(g), size: 10, line: { color: "white", width: 1 } }, name: escaped(group.name),
      hovertemplate: "%{x:.5g}, %{y:.5g}<br>%{text}<extra>%{fullData.name}</extra>",
    };
  });
  draw("scatter", traces, { xaxis: { title: { text: escaped(data.metrics[x]) } }, yaxis: { title: { text: escaped(data.metrics[y]) } } });
}

function choose(group) {
  if (!chosen.delete(group)) chosen.add(group);
  for (const row of document.querySelectorAll("tr[data-group]")) row.classList.toggle("chosen", chosen.has(Number(row.dataset.group)));
  for (const [id, groups] of Object.entries(groupsOf)) if (groups.length) Plotly.restyle(id, { opacity: groups.map(opacity) });
}

function sortBy(head) {
  const table = head.closest("table"), column = [...head.parentNode.children].indexOf(head);
  const value = (row) => { const cell = row.children[column]; return cell.dataset.value ?? cell.textContent; };
  const compare = (a, b) => {
    const [x, y] = [a, b].map(value), [n, m] = [x, y].map(Number);
    if (isNaN(n) || isNaN(m)) return isNaN(n) && isNaN(m) ? x.localeCompare(y) : isNaN(n) ? 1 : -1;
    return data.higher[head.textContent] ? m - n : n - m;
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  for (const sibling of head.parentNode.children) sibling.classList.toggle("by", sibling === head);
}

for (const row of document.querySelectorAll("tr[data-group]")) {
  row.querySelector(".swatch").style.background = colour(Number(row.dataset.group));
  row.addEventListener("click", () => choose(Number(row.dataset.group)));
}
for (const head of document.querySelectorAll("th.sortable")) head.addEventListener("click", () => sortBy(head));

const measured = data.metrics.filter((name) => name.includes("/"));
const curves = [...new Set(data.runs.flatMap((run) => Object.keys(run.curves)))].sort().reverse();
fill(byId("curve"), curves, data.sort.replace(/^(test|best\/val)\//, "val/"));
fill(byId("x"), data.metrics, measured.find((name) => name !== data.sort) ?? data.metrics.at(-1));
fill(byId("y"), data.metrics, data.sort);
for (const id of ["curve", "log"]) byId(id).addEventListener("change", drawCurves);
for (const id of ["x", "y"]) byId(id).addEventListener("change", drawScatter);
drawCurves();
drawParallel();
drawScatter();
document.body.dataset.drawn = "yes";
