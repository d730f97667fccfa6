#!/usr/bin/env python3
"""Say what this machine lacks, one line each with the fix, before anything is installed or started.

Runs on whatever python3 there is, so it keeps to the standard library and to syntax that old interpreters know.

    check_prerequisites.py --print-python      print an interpreter that fits (PYTHON=... overrides), or exit 2
    check_prerequisites.py --kafka             check java and mvn, which the local Kafka needs; exit 2 when missing
    check_prerequisites.py --kafka --print     the same, but print what is missing on stdout and exit 0
"""

import os
import re
import shutil
import subprocess
import sys

OLDEST = (3, 11)
NEWEST = (3, 13)
JAVA_OLDEST = 17
PROBE = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"


def output_of(command):
    """What a command prints, stderr included; None when it is missing, fails, or hangs."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def python_version(command):
    """The (major, minor) of an interpreter that really starts and can make environments, or None.

    Starting it is the only proof: a version manager's shim exists for versions that are not selected.
    """
    found = re.search(r"^(\d+)\.(\d+)$", output_of([command, "-c", PROBE]) or "", re.M)
    return (int(found.group(1)), int(found.group(2))) if found else None


def find_python():
    """Return (command, None) or (None, the complaint)."""
    wanted = "Python %d.%d to %d.%d" % (OLDEST + NEWEST)
    chosen = os.environ.get("PYTHON")
    if chosen:
        version = python_version(chosen)
        if version is None:
            return None, "PYTHON=%s does not start, or lacks venv: set PYTHON to an interpreter of %s." % (chosen, wanted)
        if not OLDEST <= version <= NEWEST:
            return None, "PYTHON=%s is Python %d.%d: %s is needed." % ((chosen,) + version + (wanted,))
        return chosen, None
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python"):
        version = python_version(name)
        if version is not None and OLDEST <= version <= NEWEST:
            return shutil.which(name), None
    return None, (
        "%s (with venv) is missing: install it (Debian: apt-get install python3-venv), "
        "or name one with PYTHON=/path/to/python3." % wanted
    )


def java_command():
    """JAVA_HOME's java when it is set, as every JVM tool has it; else the one on the path."""
    home = os.environ.get("JAVA_HOME")
    return os.path.join(home, "bin", "java") if home else "java"


def kafka_complaints():
    """One line for each thing that running a local Kafka lacks here."""
    complaints = []
    fix = "install a JDK or JRE of %d or newer (Debian: apt-get install default-jre-headless)" % JAVA_OLDEST
    answer = output_of([java_command(), "-version"])
    found = re.search(r'version "(\d+)(?:\.(\d+))?', answer or "")
    if found is None:
        complaints.append("java >= %d is missing: %s." % (JAVA_OLDEST, fix))
    else:
        major = int(found.group(1)) if found.group(1) != "1" else int(found.group(2) or 0)
        if major < JAVA_OLDEST:
            complaints.append("java is version %d: %s." % (major, fix))
    if output_of(["mvn", "--version"]) is None and shutil.which("mvn") is None:
        complaints.append("mvn (Maven) is missing: install it (Debian: apt-get install maven).")
    return complaints


def main(arguments):
    """Run the checks asked for."""
    complaints = []
    if "--print-python" in arguments:
        command, complaint = find_python()
        if command:
            print(command)
        else:
            complaints.append(complaint)
    if "--kafka" in arguments:
        complaints.extend(kafka_complaints())
        if "--print" in arguments:
            print("\n".join(complaints))
            return 0
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 2 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
