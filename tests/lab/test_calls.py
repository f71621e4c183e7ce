#!/usr/bin/python3
"""Every call in the lab, its cases, the demo and the guests' recipes against the signature of what it calls; no host is started.

A case or the demo runs for minutes before it comes to a call whose parameter was renamed, and some are run seldom. Looked at is
every call whose target is known without running it: functions and classes of these modules, methods of `self`, and of what a
parameter's annotation, a constructor or a return annotation says. How many those are is part of the test. What a function takes as
`**options` and hands on is not followed.

Needs neither root nor a lab: `tests/lab/test_calls.py [-v]`.
"""

import ast
import importlib
import inspect
import io
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
import typing
import unittest
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "guest-images")]

import cases  # noqa: E402  (the path must be set first)
import demonstration  # noqa: E402
import outlast_lab  # noqa: E402
import recipes  # noqa: E402
from cases import runner, stage  # noqa: E402
from demonstration import acts, guests, main, report, screen  # noqa: E402

PACKAGES = [cases, demonstration, outlast_lab, recipes]
# A lower bound: a checker that finds no targets any more finds no faults either.
CALLS_MIN = 1000
UNKNOWN = object()


class Calls(ast.NodeVisitor):
    """The calls of a module that fit no signature, and how many were looked at."""

    def __init__(self, module):
        self.module, self.globals = module, vars(module)
        self.faults: list[str] = []
        self.looked_at = 0
        self.owner = None  # the class around
        self.locals: list[dict] = []
        self.visit(ast.parse(inspect.getsource(module)))

    def visit_ClassDef(self, node):
        before, self.owner = self.owner, self.globals.get(node.name)
        self.generic_visit(node)
        self.owner = before

    def visit_FunctionDef(self, node):
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        known = {argument.arg: self.annotated(argument.annotation) for argument in arguments}
        for name in (node.args.vararg, node.args.kwarg):
            known.update({name.arg: UNKNOWN} if name else {})
        if self.owner is not None and node.args.args and node.args.args[0].arg == "self":
            known["self"] = self.owner
        # Two values of one name are told apart by nobody here.
        stored = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        known.update(dict.fromkeys(stored, UNKNOWN))
        for assigned in (n for n in ast.walk(node) if isinstance(n, ast.Assign) and len(n.targets) == 1):
            target = assigned.targets[0]
            if isinstance(target, ast.Name) and stored.count(target.id) == 1 and target.id not in [a.arg for a in arguments]:
                known[target.id] = self.made(assigned.value, [*self.locals, known])
        self.locals.append(known)
        self.generic_visit(node)
        self.locals.pop()

    def visit_Call(self, node):
        target, bound = self.target(node.func)
        if target is not UNKNOWN and target is not None:
            self.look(node, target, bound)
        self.generic_visit(node)

    def look(self, node, target, bound):
        if any(isinstance(argument, ast.Starred) for argument in node.args) or any(word.arg is None for word in node.keywords):
            return
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):
            return
        self.looked_at += 1
        values = [None] * (len(node.args) + bound)
        try:
            signature.bind(*values, **{word.arg: None for word in node.keywords})
        except TypeError as error:
            self.faults.append(f"{self.module.__file__}:{node.lineno}: {ast.unparse(node.func)}: {error}")

    def target(self, func):
        """What is called, and how many arguments it has got already."""
        if isinstance(func, ast.Name):
            return self.value(func.id), 0
        if not isinstance(func, ast.Attribute):
            return UNKNOWN, 0
        if ast.unparse(func.value) == "super()" and self.owner is not None:
            return getattr(self.owner.__mro__[1], func.attr), 1
        if isinstance(func.value, ast.Name) and inspect.ismodule(self.value(func.value.id)):
            module = self.value(func.value.id)
            return self.member(func, module) if _is_ours(module) else UNKNOWN, 0
        kind = self.kind(func.value, self.locals)
        if not inspect.isclass(kind) or not _is_ours(kind):
            return UNKNOWN, 0
        found = inspect.getattr_static(kind, func.attr, UNKNOWN)
        if found is UNKNOWN:
            if func.attr not in _attributes(kind):
                self.faults.append(f"{self.module.__file__}:{func.lineno}: {kind.__name__} has no {func.attr}")
            return UNKNOWN, 0
        is_bound = inspect.isfunction(found)
        return (getattr(kind, func.attr), int(is_bound)) if callable(getattr(kind, func.attr)) else (UNKNOWN, 0)

    def member(self, func, module):
        found = getattr(module, func.attr, UNKNOWN)
        if found is UNKNOWN:
            self.faults.append(f"{self.module.__file__}:{func.lineno}: {module.__name__} has no {func.attr}")
        return found

    def value(self, name):
        for scope in reversed(self.locals):
            if name in scope:
                return UNKNOWN
        found = self.globals.get(name, UNKNOWN)
        return found if inspect.ismodule(found) or _is_ours(found) else UNKNOWN

    def kind(self, node, scopes):
        """The class of what an expression gives."""
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(scopes) if node.id in scope), UNKNOWN)
        if isinstance(node, ast.Attribute):
            kind = self.kind(node.value, scopes)
            return _attributes(kind).get(node.attr, UNKNOWN) if inspect.isclass(kind) and _is_ours(kind) else UNKNOWN
        return self.made(node, scopes)

    def made(self, node, scopes):
        """The class of what a call makes or returns."""
        if not isinstance(node, ast.Call):
            return UNKNOWN
        before, self.locals = self.locals, scopes
        target, _ = self.target(node.func)
        self.locals = before
        if inspect.isclass(target):
            return target
        return _hints(target).get("return", UNKNOWN) if inspect.isfunction(target) else UNKNOWN

    def annotated(self, node):
        if node is None:
            return UNKNOWN
        try:
            return _plain(eval(compile(ast.Expression(node), "annotation", "eval"), dict(self.globals)))  # our own sources
        except (NameError, TypeError):
            return UNKNOWN


def _plain(kind):
    """`X | None` is looked at as X."""
    if isinstance(kind, str):
        return UNKNOWN
    options = [option for option in typing.get_args(kind) if option is not type(None)]
    if type(None) in typing.get_args(kind) and len(options) == 1:
        return options[0]
    return kind if inspect.isclass(kind) else UNKNOWN


def _hints(target) -> dict:
    try:
        return {name: _plain(kind) for name, kind in typing.get_type_hints(target).items()}
    except (NameError, TypeError):
        return {}


_KNOWN: dict = {}


def _attributes(kind) -> dict:
    """The classes of a class's attributes, as far as they are known; of the others the names."""
    if kind not in _KNOWN:
        _KNOWN[kind] = {}
        for base in reversed([base for base in kind.__mro__ if _is_ours(base)]):
            _KNOWN[kind].update(_own_attributes(base))
    return _KNOWN[kind]


def _own_attributes(base) -> dict:
    found = dict.fromkeys(vars(base), UNKNOWN) | _hints(base)
    for name, member in vars(base).items():
        if isinstance(member, property):
            found[name] = _hints(member.fget).get("return", UNKNOWN)
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(base)))
    module = sys.modules[base.__module__]
    for method in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        arguments = {argument.arg: _evaluated(argument.annotation, module) for argument in method.args.args}
        for node in ast.walk(method):
            pairs = []
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    both = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                    pairs += zip(target.elts, node.value.elts) if both else [(each, node.value) for each in getattr(target, "elts", [target])]
            elif isinstance(node, ast.AnnAssign):
                pairs = [(node.target, node.annotation)]
            for target, value in pairs:
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    made = arguments.get(value.id, UNKNOWN) if isinstance(value, ast.Name) else UNKNOWN
                    if isinstance(node, ast.AnnAssign):
                        made = _evaluated(value, module)
                    elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
                        called = getattr(module, value.func.id, UNKNOWN)
                        made = called if inspect.isclass(called) else UNKNOWN
                    if found.get(target.attr, UNKNOWN) is UNKNOWN:
                        found[target.attr] = made
    return found


def _evaluated(node, module):
    if node is None:
        return UNKNOWN
    try:
        return _plain(eval(compile(ast.Expression(node), "annotation", "eval"), dict(vars(module))))  # our own sources
    except (NameError, TypeError):
        return UNKNOWN


def _is_ours(thing) -> bool:
    name = thing.__name__ if inspect.ismodule(thing) else getattr(thing, "__module__", None)
    return isinstance(name, str) and name.split(".")[0] in {package.__name__ for package in PACKAGES} | {__name__, "example"}


def _modules():
    for package in PACKAGES:
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def _example(text: str) -> Calls:
    """The checker's view of a module with this text."""
    with tempfile.TemporaryDirectory() as directory, mock.patch.object(sys, "path", [directory, *sys.path]):
        Path(directory, "example.py").write_text(text)
        sys.modules.pop("example", None)
        importlib.invalidate_caches()
        _KNOWN.clear()
        return Calls(importlib.import_module("example"))


class CallsFit(unittest.TestCase):
    def test_every_call_fits_what_it_calls(self):
        checked = [Calls(module) for module in _modules()]
        self.assertEqual([fault for calls in checked for fault in calls.faults], [])
        self.assertGreaterEqual(sum(calls.looked_at for calls in checked), CALLS_MIN)

    def test_checker_finds_a_parameter_that_is_renamed_missing_or_one_too_many(self):
        for call in ("Child(1)", "Child(1, old=2)", "made().act()", "given.act(1, 2)", "Child(1, new=2).gone()", "helper(b=1)"):
            with self.subTest(call):
                faults = _example(EXAMPLE.replace("CALL", call)).faults
                self.assertEqual(len(faults), 1, faults)
        for call in ("Child(1, new=2)", "made().act(1)", "given.act(a=1)", "given.kept.act(1)", "helper(a=1)"):
            with self.subTest(call):
                checked = _example(EXAMPLE.replace("CALL", call))
                self.assertEqual(checked.faults, [])

    def test_checker_finds_a_constructor_that_its_parent_does_not_fit(self):
        faults = _example(EXAMPLE.replace("CALL", "None").replace("super().__init__(number, new=new)", "super().__init__(number)")).faults
        self.assertEqual(len(faults), 1, faults)


EXAMPLE = """
class Parent:
    def __init__(self, number: int, new: int):
        self.number = number

    def act(self, a):
        return a


class Child(Parent):
    def __init__(self, number: int, new: int):
        super().__init__(number, new=new)
        self.kept = Parent(number, new)


def made() -> Child:
    return Child(1, 2)


def helper(a):
    return a


def tried(given: Child):
    return CALL
"""


class Starts(unittest.TestCase):
    """What is run is made, up to where it would boot a host."""

    def setUp(self):
        self.work = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(mock.patch.object(tempfile, "mkdtemp", return_value=str(self.work)))

    def test_every_case_is_listed_and_can_be_asked_for(self):
        listing = io.StringIO()
        with redirect_stdout(listing):
            self.assertEqual(runner.main(["--list"]), 0)
        names = [case.__name__ for case in runner.CASES]
        self.assertEqual([line.split()[0] for line in listing.getvalue().splitlines()], names)
        self.assertLessEqual(runner.SOAK_ONLY | runner.WITH_DEBIAN, set(names))
        self.assertEqual(len(set(names)), len(names))

    def test_every_case_in_the_tree_is_run_by_somebody(self):
        found = set()
        for module in _modules():
            if module.__name__.startswith("cases."):
                for name, member in vars(module).items():
                    is_here = inspect.isfunction(member) and member.__module__ == module.__name__ and not name.startswith("_")
                    hints = _hints(member) if is_here else {}
                    if is_here and list(inspect.signature(member).parameters) == ["stage"] and hints.get("return") is str:
                        found.add(name)
        self.assertEqual(found, {case.__name__ for case in runner.CASES})

    def test_stage_is_made_for_all_cases_soak_included(self):
        made = []

        def up(self):
            made.append(self)
            raise stage.Failed("no host is started here")

        output = io.StringIO()
        with (
            mock.patch.object(runner, "_cannot", return_value=None),
            mock.patch.object(stage.Stage, "up", up),
            mock.patch.object(stage.Stage, "down"),
            mock.patch("signal.signal"),
            redirect_stdout(output),
        ):
            self.assertEqual(runner.main(["--all"]), 1)
        self.assertIn("no host is started here", output.getvalue())
        self.assertTrue(made[0].with_debian and made[0].with_alpine)

    def test_demo_is_made_with_either_guest(self):
        for guest in guests.CHOICES:
            with self.subTest(guest), mock.patch.object(acts.Demo, "play", lambda demo: (_ for _ in ()).throw(KeyboardInterrupt)):
                with mock.patch.object(acts.Demo, "down"), mock.patch("signal.signal"):
                    args = main._parser().parse_args(["--guest", guest, "--out", str(self.work), "--binary", "/nothing"])
                    shown = io.StringIO()
                    self.assertEqual(main._run(args, screen.Screen(shown)), main.INTERRUPTED)
                    self.assertIn("interrupted", shown.getvalue())
                self.assertTrue((self.work / "report.json").is_file())

    def test_demo_takes_what_the_program_gives_it(self):
        # vmm/src/run/demo.rs: `command`.
        args = main._parser().parse_args(["--out", "d", "--binary", "b", "--seed", "1", "--guest", "busybox"])
        self.assertEqual((args.out, args.binary, args.seed, args.guest), (Path("d"), Path("b"), 1, "busybox"))

    def test_report_of_the_demo_is_made_of_what_it_knows(self):
        facts = report.Facts(1, "a guest", begun=0.0)
        report.write(facts, self.work / "facts.json")
        self.assertTrue((self.work / "facts.json").is_file())


# Stands for `lab`: reads its arguments as that does, and does nothing.
LAB = f"""#!{sys.executable}
import sys
sys.path[:0] = [{str(HERE)!r}, {str(ROOT / "guest-images")!r}]
from outlast_lab import cli
cli._parser().parse_args(sys.argv[1:])
"""


class BenchStarts(unittest.TestCase):
    """`tests/lab/bench` asks `lab` for nothing that it does not take."""

    def test_bench_with_each_of_its_settings(self):
        for settings in ({}, {"LAB_HOSTS": "1"}, {"LAB_QUESTION": "local-sweep"}, {"LAB_GUEST": "debian"}, {"LAB_HOSTS": "1", "LAB_TIME": "counted"}):
            with self.subTest(settings), tempfile.TemporaryDirectory() as directory:
                done = self.run_bench(Path(directory), settings)
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_stand_in_refuses_what_lab_does_not_take(self):
        with tempfile.TemporaryDirectory() as directory:
            bench = (HERE / "bench").read_text().replace("--hosts", "--hostz")
            self.assertNotEqual(self.run_bench(Path(directory), {}, bench).returncode, 0)

    def run_bench(self, tree: Path, settings: dict, bench: str | None = None):
        for name, text in {
            "tests/lab/bench": bench or (HERE / "bench").read_text(),
            "tests/lab/lab": LAB,
            "guest-images/busybox/build": "#!/bin/sh\n",
            "guest-images/debian/build": "#!/bin/sh\necho /made/debian.img\n",
            "target/release/outlast": "",
            "target/release/outlast-bench": "",
        }.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LAB_", "OUTLAST_", "CARGO_"))}
        bash = shutil.which("bash")
        return subprocess.run([bash, tree / "tests/lab/bench"], env=environment | settings, capture_output=True, text=True, timeout=120, check=False)


if __name__ == "__main__":
    unittest.main()
