"""Run by the kernel of every notebook when the site is built: charts are drawn as SVG, for a page without network."""

import altair

altair.renderers.enable("svg")
