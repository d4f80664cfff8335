"""Print the ten slowest tests; fail if one was skipped that needs no GPU, or no browser test ran.

Usage: report.py REPORT.xml ...
"""

import sys
import xml.etree.ElementTree as ET


def name(case: ET.Element) -> str:
    """Return module and name of a test."""
    return f"{case.get('classname')}.{case.get('name')}"


cases = [case for report in sys.argv[1:] for case in ET.parse(report).iter("testcase")]
for case in sorted(cases, key=lambda case: -float(case.get("time", 0)))[:10]:
    print(f"{float(case.get('time', 0)):7.1f} s  {name(case)}")
if not {"tests.test_browser", "tests.test_jupyterlab"} <= {c.get("classname") for c in cases}:
    sys.exit("no browser test was run")
skipped = [
    name(case)
    for case in cases
    if case.find("skipped") is not None and case.get("classname") != "tests.test_gpu"
]
if skipped:
    sys.exit(f"tests were skipped: {', '.join(skipped)}")
