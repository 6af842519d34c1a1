"""The ratios of a comparison as SVG: a bar for each row of aieng's, and a line where the fastest peer stands."""

from html import escape

LINE, LEFT, WIDTH, RIGHT = 20, 330, 420, 150
COLOURS = {"aieng": "#0072b2", "aieng-avx2": "#56b4e9"}


def ratios(rows, title):
    """Rows without a ratio, and peers, are left out. Ratios of seconds and MiB are turned round: longer is always better."""
    bars = [row for row in rows if row["ratio"] and row["engine"] in COLOURS]
    value = lambda row: 1 / row["ratio"] if row["unit"] in ("s", "MiB") else row["ratio"]
    most = max([value(row) for row in bars] + [1])
    height = LINE * (len(bars) + 3)
    total = LEFT + WIDTH + RIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{total}" height="{height}" fill="white"/>',
        f'<text x="10" y="14">times the fastest peer (longer is better); {escape(title)}</text>',
    ]
    for i, row in enumerate(bars):
        top, width = LINE * (i + 1), WIDTH * value(row) / most
        name = f'{row["model"]} {row["test"]} ({row["threads"]}, {row["engine"]})'
        figure = f'{value(row):.2f} ({row["median"]:g} {row["unit"]})'
        parts.append(f'<text x="{LEFT - 6}" y="{top + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect x="{LEFT}" y="{top + 2}" width="{width:.1f}" height="{LINE - 4}" fill="{COLOURS[row["engine"]]}"/>'
        )
        parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{top + 13}">{figure}</text>')
    peer = LEFT + WIDTH / most
    bottom = LINE * (len(bars) + 1)
    parts.append(f'<path d="M{peer:.1f} {LINE}V{bottom + 4}" stroke="#d55e00"/>')
    parts.append(f'<text x="{peer:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#d55e00">fastest peer</text>')
    return "\n".join([*parts, "</svg>", ""])
