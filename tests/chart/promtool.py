"""promtool, Prometheus' own checks of rules."""

import subprocess

import yaml


class Promtool:
    """Writes what it is asked about into a folder of the test."""

    def __init__(self, program, folder):
        self._program = program
        self._folder = folder

    def check(self, groups):
        """What is said of the rules, and whether they are good."""
        return self._run("check", "rules", self._write("rules", groups))

    def parse(self, expressions):
        """What is said of expressions that are in no rule, and whether they are good."""
        rules = [{"record": f"a:{i}", "expr": one} for i, one in enumerate(expressions)]
        return self.check({"groups": [{"name": "expressions", "rules": rules}]})

    def test(self, groups, cases):
        """What is said of the rules in these cases, and whether all is as expected."""
        wanted = {
            "rule_files": [self._write("rules", groups).name],
            "evaluation_interval": "1m",
            "tests": [case.group() for case in cases],
        }
        return self._run("test", "rules", self._write("tests", wanted))

    def _write(self, name, content):
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def _run(self, *argv):
        done = subprocess.run(
            [self._program, *argv], capture_output=True, text=True, check=False, cwd=self._folder
        )
        return done.stdout + done.stderr, done.returncode == 0
