"""tools/mutation: what its operators do to small texts, what it draws, and how it counts."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

tools = pytest.importorskip("tools.mutation", reason="tools/ is not in a wheel")

from tools.mutation import metal_tests, mutants, native, report, tree  # noqa: E402
from tools.mutation.explained import EXPLAINED, parse  # noqa: E402
from tools.mutation.operators import OPERATORS, edits  # noqa: E402
from tools.mutation.tokens import (  # noqa: E402
    conditional,
    of_cuda_alone,
    partners,
    tokenize,
)

ROOT = Path(mutants.__file__).parents[2]


def broken(text, operator):
    """The texts that an operator makes of the body of a function, without white space."""
    whole = f"void f() {{ {text} }}"
    made = [e.apply(whole) for e in edits(whole) if e.operator == operator]
    return {"".join(t[len("void f() {") : -1].split()) for t in made}


@pytest.mark.parametrize(
    ("operator", "text", "want"),
    [
        ("sign", "x = a + b;", {"x=a-b;"}),
        ("sign", "x += a - -b;", {"x-=a--b;", "x+=a+-b;"}),
        ("unary", "x = -a * !b;", {"x=a*!b;", "x=-a*b;"}),
        ("arithmetic", "x = a * b / c % d;", {"x=a/b/c%d;", "x=a*b*c%d;", "x=a*b/c/d;"}),
        ("arithmetic", "float* p;", set()),
        ("compare", "x = f<int>(a < b);", {"x=f<int>(a<=b);"}),
        ("compare", "x = a == b;", {"x=a!=b;"}),
        ("logic", "x = a && b || c;", {"x=a||b||c;", "x=a&&b&&c;"}),
        ("index", "x[i] = f(y)[j];", {"x[i+1]=f(y)[j];", "x[i]=f(y)[j+1];"}),
        ("index", "float x[N], y[M] = {}; float *p, *q[N]; auto g = [&](int i) {};", set()),
        ("index", "float x = y[i];", {"floatx=y[i+1];"}),
        ("constant", "x = 3u + 0.0f;", {"x=4u+0.0f;", "x=3u+1.0f;"}),
        ("constant", "x = 0.5f;", {"x=0.55f;"}),
        ("constant", "enum E { A = 1 }; static_assert(n == 2); float x[4];", set()),
        ("term", "x = a + b * f(c, d) - e;", {"x=a-e;", "x=a+b-e;", "x=a+b*f(c,d);"}),
        ("term", "x = a * -b;", {"x=a;"}),
        ("operands", "x = f(a, b + c);", {"x=f(b+c,a);"}),
        ("operands", "x = a - b; y = min(a, b);", {"x=b-a;y=min(a,b);"}),
        ("statement", "x = a; f(b); float c = 1;", {";f(b);floatc=1;", "x=a;;floatc=1;"}),
        ("statement", "for (int i = 0; i < n; ++i) x = i;", {"for(inti=0;i<n;++i);"}),
        ("guard", "if (a) b();", {"if(true)b();", "if(false)b();"}),
        ("guard", "x = a < b ? c : d;", {"x=(c);", "x=(d);"}),
        (
            "loop",
            "for (int i = 0; i < n; ++i) x = i;",
            {"for(inti=0+1;i<n;++i)x=i;", "for(inti=0;i<n-1;++i)x=i;"},
        ),
        ("variable", "x = f(dn, dd.a);", {"x=f(dd,dd.a);", "x=f(dn,dn.a);"}),
        ("variable", "float dn = 0; float dd = 0;", set()),
        ("barrier", "threadgroup_barrier(mem_flags::mem_none); x = 1;", {";x=1;"}),
        ("simd", "x = simd_sum(y);", {"x=(y);"}),
        ("simd", "x = simd_shuffle_xor(y + z, 1);", {"x=(y+z);"}),
    ],
)  # fmt: skip
def test_operator_edits(operator, text, want):
    assert broken(text, operator) == want


def test_every_operator_has_a_case():
    tested = {
        mark.args[1][i][0]
        for mark in test_operator_edits.pytestmark
        for i in range(len(mark.args[1]))
    }
    assert tested == set(OPERATORS)


def test_tokenize_skips_comments_strings_and_directives():
    text = '#define A 1 \\\n 2\n// x + 3\n/* 4 */ f("5 + 6", 7);\n'
    assert [t.text for t in tokenize(text)] == ["f", "(", '"5 + 6"', ",", "7", ")", ";"]
    assert {e.operator for e in edits(text)} == {"constant", "operands"}


def test_tokenize_reads_macros_of_code():
    text = "#define F(a, b) \\\n  for (;;) { \\\n    a = b + 1; \\\n  }\n"
    text += "#define X(Y) Y(1) \\\n  Y(2)\nint c;"
    assert "".join(t.text for t in tokenize(text)) == "for(;;){a=b+1;}intc;"
    assert {e.operator for e in edits(text)} == {"constant", "loop", "sign", "statement", "term"}


@pytest.mark.parametrize("text", ["f(;", "f);", "f(];"])
def test_partners_refuses_unbalanced_brackets(text):
    with pytest.raises(ValueError, match=r"\[mutation\]"):
        partners(tokenize(text))


def test_conditional_knows_the_blocks_of_the_preprocessor():
    text = "1\n#if X\n2\n#else\n3\n#endif\n4\n"
    assert [conditional(text, text.index(c)) for c in "1234"] == [False, True, True, False]


def test_what_only_cuda_compiles_is_no_text_of_metal():
    text = "0\n#if defined(__METAL_VERSION__)\n1\n#if X\n2\n#else\n3\n#endif\n#else\n4\n#endif\n5"
    assert [of_cuda_alone(text, text.index(c)) for c in "012345"] == [False] * 4 + [True, False]


def test_edits_change_the_text_and_are_different():
    text = "void f(float* p) { for (long i = 0; i < n; ++i) p[i] += a ? b - 1 : dn * dd; }"
    texts = [e.apply(text) for e in edits(text)]
    assert len(texts) == len(set(texts))
    assert text not in texts


def test_order_is_the_seed_s_and_lets_every_operator_come_early():
    root = Path(mutants.__file__).parents[2]
    text = (root / "csrc/cpu/cfc.inl").read_text(encoding="utf-8")
    first, again, other = (mutants.order("cfc.inl", text, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other)
    present = {m.edit.operator for m in first}
    assert {m.edit.operator for m in first[: len(present)]} == present


def test_kernels_are_found_by_looking():
    root = Path(mutants.__file__).parents[2]
    cpu = set(mutants.kernel_files(root, "cpu"))
    assert {"csrc/cpu/program.inl", "csrc/cpu/ltc_dense.inl", "metal/ltc.h"} <= cpu
    assert "csrc/cpu/kernels.inl" not in cpu
    assert all((root / f"csrc/cpu/{stem}.inl").is_file() for stem in mutants.NO_KERNELS)
    everything = {path.relative_to(root).as_posix() for path in (root / "metal").iterdir()}
    assert everything - set(mutants.kernel_files(root, "all")) == {mutants.CUDA_HEADER}


def test_every_text_of_metal_has_judges_that_exist():
    beginnings = set()
    for path in [*mutants.kernel_files(ROOT, "metal"), *mutants.SHARED_FILES]:
        quick, *_, family = metal_tests.selections(path)
        assert quick != family
        files = [word for word in [*quick, *family] if word.endswith(".py")]
        assert all((ROOT / file).is_file() for file in files)
        beginnings |= {name for name in metal_tests.JUDGES if Path(path).stem.startswith(name)}
    assert beginnings == set(metal_tests.JUDGES)


def test_the_longest_beginning_of_a_name_chooses_the_judges():
    of = metal_tests.selections
    assert of("metal/ltc_lists_gradient.metal") == of("metal/ltc_lists_forward.metal")
    assert of("metal/ltc_dense_forward.metal") != of("metal/ltc_lists_forward.metal")
    assert of("metal/ltc_neuron_backward.metal") == of("metal/ltc.h")


def test_every_native_test_runs_for_some_text():
    """Else a text would be judged without a test that runs it."""
    files = [f for f in (ROOT / "tests/native").glob("*.cpp") if f.name not in native.OTHER_TESTS]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    names = re.findall(r"NATIVE_TEST\((\w+)\)", text)
    assert len(names) > 20
    for tests in native.TESTS_OF.values():
        assert any(tests in name for name in names), tests
    general = [n for n in names if not any(tests in n for tests in native.TESTS_OF.values())]
    assert general == [n for n in names if n.startswith("kernels_")]
    assert native.tests_of("csrc/cpu/ltc_lists.inl") == "ltc_kernels"
    assert native.tests_of("csrc/cpu/simd.inl") == ""


def test_mutant_names_its_line_and_its_text():
    text = "void f() {\n  x = a +\n      b;\n}\n"
    (m,) = [m for m in mutants.order("f.inl", text, 1) if m.edit.operator == "sign"]
    assert (m.line, m.before, m.after) == (2, "x = a +", "x = a -")
    keys = {mutants.mutant(path, t, m.edit).key for path in "ab" for t in (text, text + "\n")}
    assert len(keys) == 4


def results(*verdicts):
    text = "void f() { x = a + b; }"
    mutant = mutants.mutant("f.inl", text, edits(text)[0])
    each = [report.result(mutant, verdict, "native", "", 1.0) for verdict in verdicts]
    return [result._replace(key=str(i)) for i, result in enumerate(each)]


def test_rate_counts_only_killed_and_survived(monkeypatch):
    run = results("killed", "killed", "survived", "equal", "invalid")
    assert report.rate(run) == (2, 1, 0)
    reason = {("f.inl", run[0].before, run[0].after): "the same"}
    monkeypatch.setattr(report, "EXPLAINED", reason)
    assert report.rate(run) == (2, 0, 1)
    assert "| **all** | 3 | 2 | 1 | 1 | 66.7 % | 100.0 % |" in report.markdown(run)
    assert "the same\n```diff\n- " in report.markdown(run)


def test_what_is_explained_is_a_line_of_today():
    root = Path(mutants.__file__).parents[2]
    for (path, before, after), why in EXPLAINED.items():
        text = " ".join((root / path).read_text(encoding="utf-8").split())
        assert before in text, f"{path} has no line {before!r}"
        assert before != after
        assert why


def test_a_text_of_explanations_is_read_line_by_line():
    text = "# equivalent: so\na.inl\n- x <= 1\n+ x < 1\n\n# speed only\nb.inl\n- y\n+ z\n"
    assert parse(text) == {
        ("a.inl", "x <= 1", "x < 1"): "equivalent: so",
        ("b.inl", "y", "z"): "speed only",
    }
    with pytest.raises(ValueError, match="a line that is none: 'x <= 1'"):
        parse("# why\nx <= 1\n")


def test_lines_of_wide_vectors_are_judged_where_vectors_are_narrow_too(monkeypatch):
    kernels = native.Kernels(SimpleNamespace(folder=ROOT, text=lambda _: "a = b;\n"), "c++")
    monkeypatch.setattr(native, "runnable", lambda: ["baseline", "avx2", "avx512"])
    edit = SimpleNamespace(start=0)
    isas = [
        kernels.isas_of(SimpleNamespace(path="f.inl", before=line, edit=edit))
        for line in ("a = b;", "if (!GATES_AHEAD) gates(block);")
    ]
    assert isas == [["baseline"], ["baseline", "avx512"]]


def test_results_survive_a_file(tmp_path):
    run = results("killed", "survived")
    report.save(tmp_path / "new/result.json", {"seed": 1}, run)
    assert report.load(tmp_path / "new/result.json") == {r.key: r for r in run}
    assert report.load(tmp_path / "missing.json") == {}


def test_run_stops_what_runs_too_long(tmp_path):
    command = [sys.executable, "-c", "import time; print('on', flush=True); time.sleep(60)"]
    result = tree.run(command, limit=3.0, cwd=tmp_path)
    assert result.code is None
    assert result.seconds < 30
    result = tree.run([sys.executable, "-c", "print(1); exit(3)"], limit=60.0, cwd=tmp_path)
    assert (result.code, result.output) == (3, "1\n")
