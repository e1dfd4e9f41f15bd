"""Figures as inline SVG: axes, markers, labels that keep clear of each other, and two kinds of plot."""
