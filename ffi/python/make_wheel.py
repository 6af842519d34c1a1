"""Makes a wheel of aieng.py and an installed library: make_wheel.py PREFIX OUTPUT-FOLDER.

The wheel holds no compiled module of Python, so one serves every Python 3; it is as portable as its libaieng.so.1.
"""

import base64
import hashlib
import pathlib
import re
import sys
import sysconfig
import zipfile

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r"^Version: (\S+)$", pathlib.Path(sys.argv[1], "lib/pkgconfig/aieng.pc").read_text(), re.M)[1]
TAG = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")

METADATA = f"""Metadata-Version: 2.1
Name: aieng
Version: {VERSION}
Summary: LLM inference runtime that is linked, not run
License: MIT OR Apache-2.0
Requires-Python: >=3.10
"""
WHEEL = f"Wheel-Version: 1.0\nGenerator: make_wheel.py\nRoot-Is-Purelib: false\nTag: {TAG}\n"


def main():
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    info = f"aieng-{VERSION}.dist-info"
    files = {
        "aieng.py": HERE.joinpath("aieng.py").read_bytes(),
        "libaieng.so.1": pathlib.Path(sys.argv[1], "lib/libaieng.so.1").read_bytes(),
        f"{info}/METADATA": METADATA.encode(),
        f"{info}/WHEEL": WHEEL.encode(),
    }
    record = ""
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"aieng-{VERSION}-{TAG}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            # A fixed date: the same files make the same wheel.
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            wheel.writestr(entry, data)
    print(path)


main()
