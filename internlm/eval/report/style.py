"""The style sheet of a report page: light, readable, fit for print."""

STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5a6675; --line: #dfe4ea; --accent: #2f5fd0; --floor: #aab3bf; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
header, main { max-width: 1080px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
header p { color: var(--soft); max-width: 76ch; margin: 0 0 8px; font-size: 16px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 20px 24px; margin: 18px 0; }
h2 { font-size: 19px; margin: 0 0 6px; }
h3 { font-size: 15px; margin: 18px 0 4px; }
.lead { color: var(--soft); margin: 0 0 14px; max-width: 80ch; }
table.results { width: 100%; border-collapse: collapse; }
.results th, .results td { text-align: left; vertical-align: top; padding: 10px 12px 10px 0; border-top: 1px solid var(--line); }
.results thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: 13px; padding-top: 0; }
.results tbody th { font-weight: 600; width: 30%; }
.results small { display: block; color: var(--soft); font-weight: 400; font-size: 12.5px; }
.results td:last-child { width: 20%; font-size: 13.5px; }
.good { color: #17733f; font-weight: 600; } .plain { color: var(--soft); }
.bar { display: grid; grid-template-columns: 130px 1fr 110px; gap: 10px; align-items: center; font-size: 13px; }
.bar > div { background: #f0f3f7; border-radius: 3px; height: 11px; }
.bar i { display: block; height: 11px; border-radius: 3px; background: var(--floor); print-color-adjust: exact; }
.bar.model i { background: var(--accent); } .bar.model { font-weight: 600; }
.bar.floor, .bar.floor b { color: var(--soft); font-weight: 400; }
.bar b { font-variant-numeric: tabular-nums; white-space: nowrap; }
.facts { display: grid; grid-template-columns: 190px 1fr; gap: 4px 16px; margin: 0; }
.facts dt { color: var(--soft); } .facts dd { margin: 0; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 18px; }
figure { margin: 0; }
.chart svg { width: 100%; height: auto; display: block; }
.chart figcaption { font-size: 13px; color: var(--soft); margin-bottom: 4px; } .chart figcaption strong { color: var(--ink); }
.key { display: inline-block; margin-left: 10px; white-space: nowrap; } .key b { color: var(--ink); }
.key i { display: inline-block; width: 14px; height: 3px; margin-right: 5px; vertical-align: middle; print-color-adjust: exact; }
.strip { display: flex; flex-wrap: wrap; gap: 8px; margin: 8px 0 14px; }
.cell { width: 100px; } .cell img { width: 100%; display: block; border-radius: 5px; border: 3px solid transparent; }
.cell.query img { border-color: var(--accent); } .cell.right img { border-color: #1f9d55; }
.cell.wrong img { border-color: #d9a5a5; }
.cell figcaption { font-size: 11.5px; color: var(--soft); line-height: 1.3; margin-top: 3px; }
.pair { display: flex; gap: 6px; margin-right: 18px; break-inside: avoid; }
.cell.body { width: 224px; } .cell.body svg { width: 100%; display: block; border-radius: 5px; }
@media print { body { background: #fff; font-size: 12px; } section { break-inside: avoid; border: 0; padding: 8px 0; } }
@media (max-width: 720px) {
  .bar { grid-template-columns: 90px 1fr 86px; }
  .facts, .charts { grid-template-columns: 1fr; }
}
"""
