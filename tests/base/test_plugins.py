"""Plug-ins: metrics, terms and families of modules that are not in the package."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METRIC = """
    from jaxinterp.metrics.registry import metric

    @metric("half_off", needs=("probability", "without_4"), title="Half", range=(0.0, 1.0), better="higher")
    def half_off(mean):
        \"\"\"A share that is lost with four.\"\"\"
        return (1 - mean("without_4") / mean("probability")).clip(0, 1)
"""
FAMILY = """
    import dataclasses
    from jaxinterp.models.families.registry import FAMILIES

    FAMILY = dataclasses.replace(
        next(f for f in FAMILIES if f.name == "llama"), name="mine", model_types=("mine",), gguf_architectures=()
    )
"""


def program(code, folder, **environment):
    """A process of its own in a folder."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, "-c", textwrap.dedent(code)] if "\n" in code else [sys.executable, "-m", *code.split()]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, check=False)


def jaxinterp(words, folder, **environment):
    """The command line."""
    return program(
        f"""
        import sys
        from jaxinterp.cli.main import main
        main({words.split()!r})
    """,
        folder,
        **environment,
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_metrics.py").write_text(textwrap.dedent(METRIC))
    (tmp_path / "my_family.py").write_text(textwrap.dedent(FAMILY))
    return tmp_path


@pytest.mark.parametrize("name", ["my_metrics", "my_metrics.py", "./my_metrics.py", "{folder}/my_metrics.py"])
def test_a_file_in_the_folder_is_imported(folder, name):
    told = jaxinterp(f"metrics list --import {name.format(folder=folder)}", folder)
    assert told.returncode == 0 and "half_off" in told.stdout, told.stderr
    assert "half_off" not in jaxinterp("metrics list", folder).stdout


def test_installed_packages_are_found_by_entry_points(folder):
    info = folder / "somebody-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[jaxinterp]\nsomebody = my_metrics\n")
    told = jaxinterp("metrics list", folder, PYTHONPATH=os.pathsep.join([str(ROOT), str(folder)]))
    assert told.returncode == 0 and "half_off" in told.stdout, told.stderr


def test_a_metric_of_a_plug_in_is_checked_and_a_family_is_found(folder):
    told = program(
        """
        from jaxinterp.base.plugins import add_imports
        add_imports(["my_metrics", "my_family"])
        from jaxinterp.metrics.check import check_metric
        from jaxinterp.models.families.registry import hf_family
        check_metric("half_off")
        print(hf_family({"model_type": "mine"}, "config.json").name)
    """,
        folder,
    )
    assert told.stdout == "mine\n", told.stderr


def test_what_cannot_be_imported(folder):
    (folder / "broken.py").write_text("1 / 0")
    for name, message in (("broken", "ZeroDivisionError: division by zero"), ("nobody", "No module named 'nobody'")):
        told = jaxinterp(f"metrics list --import {name}", folder)
        assert told.returncode == 2 and told.stderr.count("\n") == 1
        assert f"error: --import {name} cannot be imported: " in told.stderr and message in told.stderr


def test_what_cannot_be_imported_leaves_the_registries_whole(folder):
    told = program(
        """
        from jaxinterp.metrics.registry import METRICS
        first = METRICS.names()
        import jaxinterp.api.measured
        print(len(first) > 50, METRICS.names() == first)
    """,
        folder,
        JAXINTERP_IMPORT="nobody",
    )
    assert told.stdout == "True True\n", told.stderr
    assert "UserWarning: --import nobody cannot be imported" in told.stderr
