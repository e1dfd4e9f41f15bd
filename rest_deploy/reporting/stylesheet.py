"""What the report looks like: on a screen by day and by night, on a phone, on paper."""

from __future__ import annotations

from rest_deploy.reporting.markup import Html

#: Colours of text are past 4.5:1 on their backgrounds, marks past 3:1. c0 to c6 are those of Okabe and Ito ("Color
#: universal design", 2008), darkened for white paper and lightened for the dark.
_LIGHT = """
--page:#fafaf8;--card:#ffffff;--band:#f0f2f4;--ink:#1a1f26;--soft:#57606b;--line:#d5dae0;--grid:#e6e9ed;
--accent:#0b5a9d;--good:#05684c;--bad:#a8330a;--warn:#7a5200;--goodtint:#e9f5f0;--badtint:#fcefe9;--warntint:#fdf5e2;
--shade:#1a1f2630;
--c0:#0072b2;--c1:#cc5500;--c2:#008a64;--c3:#a8508a;--c4:#a67600;--c5:#2b86bd;--c6:#5f6670;
"""
_DARK = """
--page:#13171c;--card:#1a1f26;--band:#232a33;--ink:#e7eaee;--soft:#a7b1bc;--line:#39424d;--grid:#2b333d;
--accent:#7dbcf0;--good:#5fd3a9;--bad:#ff9a76;--warn:#f0c05a;--goodtint:#16302a;--badtint:#3a221a;--warntint:#332b17;
--shade:#000000a0;
--c0:#4ea6e0;--c1:#f58b45;--c2:#2cc397;--c3:#df93c3;--c4:#e6b032;--c5:#8fccf3;--c6:#b3bac3;
"""

_TEXT = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%;scroll-behavior:auto}
body{margin:0 auto;max-width:1232px;padding:2rem 1.5rem 4rem;background:var(--page);color:var(--ink);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 1rem;font-weight:650;letter-spacing:-.01em}
h2{font-size:1.25rem;line-height:1.3;margin:0 0 1rem;font-weight:650}
h3{font-size:1.05rem;margin:2rem 0 .75rem;font-weight:650}
p,ul{margin:.5rem 0;max-width:75ch}
ul{padding-left:1.3rem}
a{color:var(--accent)}
section{margin-top:2.5rem;padding-top:1.5rem;border-top:1px solid var(--line)}
data,.num,.no,.facts dd{font-variant-numeric:tabular-nums}
data{white-space:nowrap}
.none{color:var(--soft)}
.case{white-space:nowrap}
.id{overflow-wrap:anywhere}
.no{font-weight:650;white-space:nowrap}
.bad{color:var(--bad);font-weight:600}
.good{color:var(--good);font-weight:600}
.warn{color:var(--warn);font-weight:600}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.85em}
pre{margin:.5rem 0;padding:.75rem 1rem;background:var(--band);border-radius:6px;white-space:pre-wrap;
overflow-wrap:anywhere}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:1.5rem 0 0;padding:0;list-style:none;max-width:none;
font-size:.92rem}
"""

_PARTS = """
.verdict{border:1px solid var(--line);border-left:6px solid var(--edge);border-radius:6px;background:var(--tint);
padding:.75rem 1.1rem}
.passed{--edge:var(--good);--tint:var(--goodtint)}
.failed{--edge:var(--bad);--tint:var(--badtint)}
.measured{--edge:var(--accent);--tint:var(--band)}
.verdict .line{font-size:1.1rem;margin:0;max-width:none}
.verdict .state{color:var(--edge);margin-right:.35em}
.verdict ul{max-width:none;font-size:.95rem}
.cautions{padding-left:0;list-style:none}
.cautions b{color:var(--warn)}
.caution{border:1px solid var(--line);border-left:6px solid var(--warn);border-radius:6px;background:var(--warntint);
padding:.4rem 1.1rem;margin:0 0 1rem;font-size:.95rem}
.caution p b{color:var(--warn)}
.caution ul{max-width:none}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1.5rem;margin:1.25rem 0 0;font-size:.95rem}
.facts dt{color:var(--soft)}
.facts dd{margin:0;min-width:0;overflow-wrap:anywhere}
figure{margin:1rem 0;display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:1.5rem;
align-items:start}
figcaption{color:var(--soft);font-size:.88rem;max-width:60ch}
.legend{display:block;color:var(--ink);margin-bottom:.2rem}
.words{display:block;margin-top:.4rem;max-width:80ch}
.full figcaption{grid-column:1/-1;max-width:none}
.full .legend{display:inline-block;margin-right:1.2rem}
@media(min-width:1100px){
.beside{grid-template-columns:repeat(3,1fr);grid-template-rows:auto 1fr}
.beside .plot:nth-child(2){grid-column:2;grid-row:1/span 2}
.beside .plot:nth-child(3){grid-column:3;grid-row:1/span 2}
.beside figcaption{grid-column:1;grid-row:2}
}
details{margin:1rem 0}
summary{cursor:pointer;color:var(--accent);font-weight:600;padding:.2rem 0;overflow-wrap:anywhere}
summary:focus-visible,a:focus-visible,.scroll:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:.9rem;margin-top:.75rem}
.card{display:flex;gap:.9rem;align-items:flex-start;background:var(--card);border:1px solid var(--line);
border-radius:6px;padding:.75rem;font-size:.84rem;min-width:0}
.card>div{min-width:0;flex:1}
.card p{margin:0 0 .3rem;font-weight:600;font-size:.84rem}
.card dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.05rem .6rem;margin:0}
.card dt{color:var(--soft)}
.card dd{margin:0;min-width:0;overflow-wrap:anywhere}
.picture{flex:none;width:96px;height:96px;object-fit:contain;background:var(--band);border-radius:4px}
.picture.none{display:flex;align-items:center;justify-content:center;font-size:.8rem}
.small{image-rendering:pixelated}
.left-out{font-size:.92rem;max-width:none}
"""

_TABLES = """
.scroll{overflow-x:auto;margin:1rem 0 .5rem;border:1px solid var(--line);border-radius:6px;
background:linear-gradient(to left,var(--card) 40%,transparent) right/48px 100% no-repeat local,
linear-gradient(to left,var(--shade),transparent) right/14px 100% no-repeat scroll,var(--card)}
table{border-collapse:collapse;width:max-content;min-width:100%;font-size:.84rem;line-height:1.4}
caption{text-align:left;padding:.6rem .75rem;font-weight:600;border-bottom:1px solid var(--line)}
caption span,.group span{position:sticky;left:.75rem}
th,td{padding:.32rem .48rem;text-align:left;vertical-align:top;border-top:1px solid var(--grid)}
thead th{border-top:0;vertical-align:bottom;color:var(--soft);font-weight:600;white-space:normal;min-width:3.2rem}
thead th.num{overflow-wrap:normal}
td{max-width:13rem;overflow-wrap:break-word}
tbody th{font-weight:400;min-width:6rem;max-width:20rem;overflow-wrap:break-word}
tbody th[scope=row]{position:sticky;left:0;background:var(--card)}
tbody th .id{overflow-wrap:break-word}
.num{text-align:right}
td.num{white-space:nowrap}
.group th{background:var(--band);font-weight:600;border-top-color:var(--line)}
.wide{white-space:normal;overflow-wrap:anywhere}
.note{color:var(--soft);font-size:.84rem;margin:.25rem 0}
"""

_PLOTS = """
.plot{display:block;width:100%;max-width:440px;height:auto;background:var(--card);border:1px solid var(--line);
border-radius:6px;padding:8px;overflow:visible}
.plot text{font-size:11px;fill:var(--ink)}
.plot .head{font-weight:650}
.plot .axis,.plot .tick{fill:var(--soft)}
.plot .name{paint-order:stroke;stroke:var(--card);stroke-width:3px;stroke-linejoin:round}
.plot .told{font-variant-numeric:tabular-nums}
.grid{stroke:var(--grid)}.rule,.edge{stroke:var(--line)}.track{stroke:var(--grid);stroke-dasharray:1 3}
.base{stroke:var(--soft)}
.area{fill:transparent}.row:hover .area{fill:var(--band)}
.mark{fill:var(--c);stroke:var(--c);stroke-width:1.6}
.hollow{fill:var(--card)}
.whisker{stroke:var(--c);stroke-width:1.8;fill:none}
.limit{stroke:var(--ink);stroke-width:2.2}
.own{fill:var(--card);stroke:var(--soft);stroke-width:1.4}
.trend{stroke:var(--c);stroke-width:1.5;fill:none}.dashed{stroke-dasharray:4 3}
.plot .number{fill:var(--c);font-weight:650}
.frontier{fill:none;stroke:var(--soft);stroke-width:1.6}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}
.key{width:1.05em;height:.95em;vertical-align:-.12em;margin-right:.3em}
"""

_NARROW = """
@media(max-width:600px){
body{padding:1.25rem .9rem 3rem}
h1{font-size:1.4rem}
.facts{grid-template-columns:1fr;gap:0}.facts dd{margin-bottom:.5rem}
th,td{padding:.32rem .5rem}
tbody th[scope=row]{max-width:12.5rem}
}
"""

_PAPER = """
@media print{
@page{margin:14mm}
html{font-size:9.5pt}
body{max-width:none;padding:0;-webkit-print-color-adjust:exact;print-color-adjust:exact}
nav{display:none}
a{color:inherit;text-decoration:none}
details::details-content{content-visibility:visible;display:block;block-size:auto}
summary{list-style:none;color:inherit}
.scroll{overflow:visible;border:0}
table{font-size:6.6pt;width:100%;min-width:0}
th,td,tbody th[scope=row]{padding:1.5pt 2.2pt;max-width:none;min-width:0;position:static}
thead th{min-width:0}
td.num{white-space:normal}
thead{display:table-header-group}
figure{display:flex;flex-wrap:wrap;gap:8pt}
.plot{width:auto;min-width:0;flex:0 0 calc(50% - 4pt)}
figcaption{flex:1 1 40%}
.full figcaption{flex-basis:100%}
.cards{grid-template-columns:repeat(3,minmax(0,1fr))}
.card,.card p{font-size:8pt;gap:6pt}
.picture{width:48pt;height:48pt}
.verdict,.caution,.plot,.card,tr,pre,figcaption{break-inside:avoid}
h2,h3,summary,caption,.group,thead{break-after:avoid}
section{margin-top:14pt;padding-top:10pt}
}
"""

#: All of it. Print is always light.
STYLE = Html(
    f":root{{color-scheme:light dark;{_LIGHT}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    f"{_TEXT}{_PARTS}{_TABLES}{_PLOTS}{_NARROW}{_PAPER}"
)
