"""Finds out what Python packages come to, or installs them; run in a build step of an environment.

python.py resolve|install PREFIX REQUIREMENTS REPORT
"""

import compileall
import glob
import importlib.util
import json
import os
import re
import subprocess
import sys

# The first pip that reports what it would install.
PIP_WANTED = (22, 2)
# Where Python itself and distributions keep a wheel of pip.
WHEELS = "/usr/share/python-wheels/pip-*.whl"


def main(verb, prefix, requirements, report):
    python = make_environment(prefix)
    pip = find_pip(python)
    if verb == "resolve":
        install(pip, "--dry-run", f"--report={report}.json", "-r", requirements)
        write_report(f"{report}.json", report)
    else:
        if os.path.getsize(requirements):
            install(pip, "--no-deps", "--require-hashes", "--no-compile", "-r", requirements)
        compile_all(python, prefix)


def make_environment(prefix):
    """Makes a virtual environment that sees the packages of the image; an image that was made from
    an environment has one already. Returns its Python."""
    python = f"{prefix}/bin/python3"
    if not os.path.exists(python):
        if importlib.util.find_spec("venv") is None:
            sys.exit(f"{sys.executable} has no module `venv`: add `apt: [python3-venv]`")
        flags = ["--system-site-packages", "--symlinks", "--without-pip"]
        subprocess.run([sys.executable, "-m", "venv", *flags, prefix], check=True)
    return python


def find_pip(python):
    """The command line of the image's pip, else of the wheel that comes with Python."""
    bundled = []
    spec = importlib.util.find_spec("ensurepip")
    if spec is not None and spec.origin:
        bundled = glob.glob(os.path.dirname(spec.origin) + "/_bundled/pip-*.whl")
    wheels = sorted(bundled) + sorted(glob.glob(WHEELS))
    commands = [[python, "-m", "pip"], *([python, f"{wheel}/pip"] for wheel in wheels)]
    old = None
    for command in commands:
        asked = subprocess.run([*command, "--version"], capture_output=True, text=True)
        found = re.match(r"pip (\d+)\.(\d+)", asked.stdout)
        if asked.returncode == 0 and found:
            if tuple(map(int, found.groups())) >= PIP_WANTED:
                return command
            old = found.group()
    wanted = ".".join(map(str, PIP_WANTED))
    if old:
        sys.exit(f"the image has {old}, which does not report what it resolves to: "
                 f"{wanted} or later is needed")
    sys.exit(f"the image has no pip: one of {wanted} or later is needed; "
             "`apt: [python3-pip, python3-venv]` adds Debian's")


def install(pip, *words):
    flags = ["--no-input", "--no-cache-dir", "--progress-bar=off", "--disable-pip-version-check",
             "--no-warn-script-location", "--root-user-action=ignore"]
    ended = subprocess.run([*pip, "install", *flags, *words])
    if ended.returncode:
        sys.exit(ended.returncode)


def write_report(pips, report):
    """From pip's report (PyPA, "Installation report format") the name, version and hash of all that
    would be installed."""
    with open(pips, encoding="utf-8") as file:
        found = json.load(file)["install"]
    os.remove(pips)
    lines = []
    for one in found:
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        archive = one["download_info"].get("archive_info", {})
        hashes = archive.get("hashes") or dict([archive.get("hash", "=").split("=", 1)])
        if "sha256" not in hashes:
            sys.exit(f"the index gives no SHA-256 of {name} {version}, so that it cannot be locked")
        lines.append(f"{name}=={version} sha256:{hashes['sha256']}\n")
    with open(report, "w", encoding="utf-8") as file:
        file.writelines(lines)


def compile_all(python, prefix):
    """Compiles what was installed. Sources cannot change in an image, so that compiled files need
    not look at them; files that do not compile are the packages' own templates and tests."""
    if compileall.__file__ and glob.glob(f"{prefix}/lib/python3*/site-packages/*"):
        mode = "--invalidation-mode=unchecked-hash"
        subprocess.run([python, "-m", "compileall", "-qq", "-f", mode, f"{prefix}/lib"])


main(*sys.argv[1:])
