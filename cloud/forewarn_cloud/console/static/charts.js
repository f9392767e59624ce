// Draws the charts. The facts come with the page; the figure's caption and table say the same in words.
"use strict";
(() => {
  const HEIGHT_PX = 170;
  const plots = new Map();

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const stroke = {
    observed: "--fw-observed", expected: "--fw-expected", health: "--fw-health",
    low: "--fw-envelope", high: "--fw-envelope",
  };
  const markStroke = { evidence: "--fw-evidence", order: "--fw-order", closed: "--fw-closed" };
  const limitStroke = { alert: "--fw-alert", alarm: "--fw-alarm" };

  // Between two moments at which the model spoke nobody knows what it expected: those are points, not a line.
  const paths = { health: uPlot.paths.stepped({ align: 1 }), expected: () => null };

  const line = (series) => ({
    label: series.label,
    stroke: colour(stroke[series.style]),
    width: series.style === "low" || series.style === "high" ? 0.8 : 1.6,
    paths: paths[series.style],
    fill: series.style === "health" ? colour("--fw-health-fill") : undefined,
    points: { show: series.style === "expected" || series.values.length < 3, size: 7, width: 2 },
    spanGaps: series.style === "expected" || series.style === "health",
    value: (_, value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString()),
  });

  const verticals = (facts) => (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    for (const mark of facts.marks) {
      const x = Math.round(plot.valToPos(mark.at, "x", true));
      ctx.strokeStyle = colour(markStroke[mark.kind]);
      ctx.lineWidth = 2 * devicePixelRatio;
      ctx.setLineDash(mark.kind === "evidence" ? [] : [6 * devicePixelRatio, 4 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.font = `${11 * devicePixelRatio}px sans-serif`;
    ctx.textAlign = "left";
    for (const limit of facts.limits) {
      const y = Math.round(plot.valToPos(limit.value, "y", true));
      if (y < bbox.top || y > bbox.top + bbox.height) continue;
      ctx.strokeStyle = ctx.fillStyle = colour(limitStroke[limit.level]);
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.fillText(limit.label, bbox.left + 6 * devicePixelRatio, y - 4 * devicePixelRatio);
    }
    ctx.restore();
  };

  const range = (facts) => (_, low, high) => {
    if (facts.bounds) return facts.bounds;
    if (low === null || high === null) return [0, 1];
    const top = Math.max(high, ...facts.limits.map((limit) => limit.value));
    const pad = (top - low || Math.abs(top) || 1) * 0.08;
    return [low - pad, top + pad];
  };

  // The area between the least and the greatest reading of each bucket, where a point stands for many.
  const bands = (facts) => {
    const place = (style) => 1 + facts.series.findIndex((series) => series.style === style);
    const [low, high] = [place("low"), place("high")];
    return low && high ? [{ series: [high, low], fill: colour("--fw-envelope-fill") }] : [];
  };

  const axis = (extra) => ({
    stroke: colour("--fw-axis"),
    grid: { stroke: colour("--fw-grid"), width: 1 },
    ticks: { stroke: colour("--fw-grid"), width: 1 },
    ...extra,
  });

  const options = (facts, timeLabel, width) => ({
    width,
    height: HEIGHT_PX,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), facts.zone),
    cursor: { sync: { key: "machine" }, drag: { x: true, y: false } },
    legend: { live: true },
    scales: { x: { time: true, range: (_, low, high) => [low ?? facts.from, high ?? facts.to] }, y: { range: range(facts) } },
    axes: [axis({ values: timeTicks }), axis({ size: 56 })],
    series: [{ label: timeLabel, value: "{YYYY}-{MM}-{DD} {HH}:{mm}" }, ...facts.series.map(line)],
    bands: bands(facts),
    hooks: { draw: [verticals(facts)] },
  });

  const HOUR = 3600;
  const DAY = 24 * HOUR;
  const timeTicks = [
    [DAY, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
    [HOUR, "{HH}:{mm}", "\n{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
    [60, "{HH}:{mm}", "\n{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
    [1, "{HH}:{mm}:{ss}", "\n{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
  ];

  const joined = (facts) => {
    const tables = facts.series.map((series) => [series.at, series.values]);
    const edges = [[facts.from, facts.to], [null, null]];
    const all = uPlot.join([...tables, edges], [...tables.map(() => [0, 1]), [0, 0]]);
    return all.slice(0, 1 + tables.length);
  };

  const draw = (place) => {
    const facts = JSON.parse(place.dataset.facts);
    place.replaceChildren();
    plots.set(place, new uPlot(options(facts, place.dataset.timeLabel, place.clientWidth), joined(facts), place));
  };

  const drawAll = () => {
    for (const [place, plot] of plots) if (!place.isConnected) { plot.destroy(); plots.delete(place); }
    for (const place of document.querySelectorAll(".plot")) if (!plots.has(place)) draw(place);
  };

  const redrawAll = () => {
    for (const [place, plot] of plots) { plot.destroy(); plots.delete(place); }
    drawAll();
  };

  drawAll();
  document.addEventListener("htmx:afterSettle", drawAll);
  document.addEventListener("theme", redrawAll);
  let waiting = null;
  window.addEventListener("resize", () => {
    window.clearTimeout(waiting);
    waiting = window.setTimeout(() => {
      for (const [place, plot] of plots) plot.setSize({ width: place.clientWidth, height: HEIGHT_PX });
    }, 100);
  });
})();
