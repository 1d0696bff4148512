import subprocess
import sys
from typing import Any

import pytest

from sdapp.errors import ConfigError
from sdapp.scheduler_table import TABLE
from sdapp.schedulers import (
    check_noise_schedule,
    check_run,
    constructor_options,
    few_steps,
    fit_to_model,
    resolve,
)

SPELLINGS = {
    "pndm": ["PLMS", "PNDM", "pndm", "PNDMScheduler"],
    "ddim": ["DDIM", "ddim", "DDIMScheduler", "DDIM Uniform"],
    "ddpm": ["DDPM", "DDPMScheduler"],
    "lms": ["LMS", "K-LMS", "k_lms", "LMSDiscreteScheduler"],
    "lms-karras": ["LMS Karras", "lms_k", "k_lms_karras"],
    "euler": [
        "Euler",
        "k_euler",
        "euler ",
        "EULER",
        "EulerDiscreteScheduler",
        "Euler Uniform",
        "Euler Normal",
    ],
    "euler-karras": ["Euler Karras", "euler_k", "k_euler_karras"],
    "euler-exponential": ["Euler Exponential", "euler_exp"],
    "euler-beta": ["Euler Beta"],
    "euler-trailing": ["Euler SGM Uniform", "euler_trailing", "Euler Simple"],
    "euler-a": ["Euler a", "euler_a", "k_euler_a", "euler_ancestral", "EulerAncestralDiscreteScheduler"],
    "heun": ["Heun", "k_heun", "HeunDiscreteScheduler"],
    "heun-karras": ["Heun Karras", "heun_k"],
    "dpm2": ["DPM2", "dpm_2", "kdpm_2", "k_dpm_2", "KDPM2DiscreteScheduler"],
    "dpm2-karras": ["DPM2 Karras", "dpm_2_k", "kdpm_2_k"],
    "dpm2-a": ["DPM2 a", "dpm_2_a", "k_dpm_2_a", "dpm_2_ancestral", "KDPM2AncestralDiscreteScheduler"],
    "dpm2-a-karras": ["DPM2 a Karras", "dpm_2_a_k"],
    "dpm": ["DPM-Solver", "dpmsolver"],
    "dpm++2m": [
        "DPM++ 2M",
        "dpmsolver++",
        "dpmpp_2m",
        "dpm++2m",
        "k_dpmpp_2m",
        "DPMSolverMultistepScheduler",
    ],
    "dpm++2m-karras": ["DPM++ 2M Karras", "dpmpp_2m_k", "k_dpmpp_2m_karras", "dpmpp 2m karras"],
    "dpm++2m-sde": ["DPM++ 2M SDE", "dpmpp_2m_sde", "sde-dpmsolver++"],
    "dpm++2m-sde-karras": ["DPM++ 2M SDE Karras", "dpmpp_2m_sde_k"],
    "dpm++2m-sde-exponential": ["DPM++ 2M SDE Exponential"],
    "dpm++2m-sde-heun": ["DPM++ 2M SDE Heun"],
    "dpm++2m-sde-heun-karras": ["DPM++ 2M SDE Heun Karras"],
    "dpm++3m-sde": ["DPM++ 3M SDE", "dpmpp_3m_sde"],
    "dpm++3m-sde-exponential": ["DPM++ 3M SDE Exponential"],
    "dpm++sde": ["DPM++ SDE", "dpmpp_sde", "k_dpmpp_sde", "DPMSolverSDEScheduler"],
    "dpm++sde-karras": ["DPM++ SDE Karras", "dpmpp_sde_k"],
    "dpm++2s": ["DPM++ 2S", "dpmpp_2s", "DPMSolverSinglestepScheduler"],
    "unipc": ["UniPC", "uni_pc", "UniPCMultistepScheduler"],
    "unipc-karras": ["UniPC Karras", "unipc_k"],
    "deis": ["DEIS", "DEISMultistepScheduler"],
    "deis-karras": ["deis_k"],
    "sa-solver": ["SA-Solver", "sa_solver", "SASolver"],
    "lcm": ["LCM"],
    "tcd": ["TCD"],
}
NAMES = [name for row in TABLE for name in (row.name, *(f"{row.name}-{sigmas}" for sigmas in row.sigmas))]


@pytest.mark.parametrize(
    ("spelling", "name"), [(text, name) for name, texts in SPELLINGS.items() for text in texts]
)
def test_every_dialect_is_understood(spelling: str, name: str) -> None:
    assert resolve(spelling).name == name


@pytest.mark.parametrize(("alias", "name"), [(alias, row.name) for row in TABLE for alias in row.aliases])
def test_an_alias_leads_to_the_row_that_lists_it(alias: str, name: str) -> None:
    assert resolve(alias).name == name


@pytest.mark.parametrize("name", [*NAMES, "euler-trailing"])
def test_a_canonical_name_is_its_own(name: str) -> None:
    assert resolve(name).name == name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pndm", {"skip_prk_steps": True, "timestep_spacing": "leading", "steps_offset": 1}),
        (
            "ddim",
            {
                "clip_sample": False,
                "set_alpha_to_one": False,
                "steps_offset": 1,
                "timestep_spacing": "leading",
            },
        ),
        ("ddpm", {"clip_sample": False}),
        (
            "dpm++2m-karras",
            {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True, "timestep_spacing": "linspace"},
        ),
        ("dpm++2m-lu", {"use_lu_lambdas": True}),
        ("dpm++2m-sde-heun", {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
        ("dpm++3m-sde-exponential", {"solver_order": 3, "use_exponential_sigmas": True}),
        ("dpm++2s", {"lower_order_final": True}),
        ("unipc", {"solver_type": "bh2"}),
        ("euler-beta", {"use_beta_sigmas": True}),
        ("euler-trailing", {"timestep_spacing": "trailing"}),
    ],
)
def test_a_name_stands_for_options(name: str, options: dict[str, object]) -> None:
    assert options.items() <= resolve(name).options.items()


def test_an_option_that_is_given_wins() -> None:
    assert resolve("ddim", {"steps_offset": 0}).options["steps_offset"] == 0


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("DPM fast", "the closest is `dpm++2m`"),
        ("k_dpm_fast", "the closest is `dpm++2m`"),
        ("DPM fast Karras", "the closest is `dpm++2m`"),
        ("DPM adaptive", "no adaptive step sizes"),
        ("Restart", "the closest is `heun`"),
        ("DPM++ 2S a", "the closest is `dpm++2s`"),
        ("DPM++ 2S a Karras", "the closest is `dpm++2s`"),
        ("k_dpmpp_2s_a", "the closest is `dpm++2s`"),
        ("EDM Euler", "use `euler-karras`"),
        ("EDMEulerScheduler", "use `euler-karras`"),
        ("iPNDM", "use `pndm`"),
        ("ddmi", "did you mean 'ddim'?"),
        ("dpm++2m-kraras", "did you mean 'dpm++2m-karras'?"),
        ("eulr", "did you mean 'euler'?"),
        ("DPM++ 2M Karas", "did you mean 'dpm++2m-karras'?"),
        ("unipcc", "did you mean 'unipc'?"),
        ("ddimm", "did you mean 'ddim'?"),
        ("heun-karas", "did you mean 'heun-karras'?"),
        ("zzzzzz", "no scheduler 'zzzzzz'; `sdapp schedulers` lists all"),
        ("", "no scheduler ''"),
        (" -_.", "no scheduler"),
        ("karras", "no scheduler 'karras'"),
        ("k", "no scheduler 'k'"),
        ("scheduler", "no scheduler 'scheduler'"),
        ("Euler a Karras", "EulerAncestralDiscreteScheduler has no karras sigmas; supported: none"),
        ("ddim-karras", "DDIMScheduler has no karras sigmas"),
        ("euler-lu", "EulerDiscreteScheduler has no lu sigmas; supported: karras, exponential, beta"),
        ("lcm exponential", "LCMScheduler has no exponential sigmas"),
    ],
)
def test_a_name_that_diffusers_does_not_support_is_refused_with_the_closest(name: str, fragment: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        resolve(name)
    assert fragment in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "options", "fragment"),
    [
        (
            "euler",
            {"use_karas_sigmas": True},
            "takes no option 'use_karas_sigmas', did you mean 'use_karras_sigmas'?",
        ),
        ("ddim", {"use_karras_sigmas": True}, "DDIMScheduler takes no option 'use_karras_sigmas'"),
        ("lcm-trailing", {"algorithm_type": "dpmsolver"}, "LCMScheduler takes no option 'algorithm_type'"),
        ("ddim", {"timestep_spacing": "even"}, "is one of 'linspace', 'leading', 'trailing', not 'even'"),
        ("pndm", {"skip_prk_steps": False}, "is one of True, not False"),
        ("ddpm", {"variance_type": "learned"}, "variance_type of DDPMScheduler is one of"),
        ("euler", {"interpolation_type": "log_linear"}, "is one of 'linear'"),
        (
            "dpm++2m",
            {"algorithm_type": "sde-dpmsolver"},
            "algorithm_type of DPMSolverMultistepScheduler is one",
        ),
        ("dpm-karras", {"solver_order": 3}, "ends in NaN if the sigmas are set by use_karras_sigmas"),
        ("dpm-lu", {"solver_type": "heun"}, "ends in NaN if the sigmas are set by use_lu_lambdas"),
        (
            "euler-karras",
            {"use_beta_sigmas": True},
            "only one kind of sigmas at a time; use_karras_sigmas and use_beta_sigmas",
        ),
        (
            "euler",
            {"use_exponential_sigmas": True, "use_beta_sigmas": True},
            "only one kind of sigmas at a time",
        ),
        (
            "unipc",
            {"solver_type": "bh1", "final_sigmas_type": "zero"},
            "ends in NaN; use sigma_min or solver_type bh2",
        ),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(
    name: str, options: dict[str, object], fragment: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        resolve(name, options)
    assert fragment in str(refusal.value)


def test_unipc_bh1_gets_another_last_sigma_and_a_note() -> None:
    resolved = resolve("unipc", {"solver_type": "bh1"})
    assert resolved.options["final_sigmas_type"] == "sigma_min"
    assert "final_sigmas_type is set to sigma_min" in resolved.notes[0]


def test_unipc_bh1_with_sigma_min_stays_as_given_without_a_note() -> None:
    assert resolve("unipc", {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}).notes == ()


LEADING = {"timestep_spacing": "leading"}
DPM_TO_ZERO = (
    "scheduler: algorithm_type dpmsolver with final_sigmas_type zero ends in NaN; use sigma_min, "
    "or algorithm_type dpmsolver++"
)


@pytest.mark.parametrize(
    ("name", "options", "steps", "eta", "refusal"),
    [
        ("dpm++2m", LEADING, 999, None, None),
        (
            "dpm++2m",
            LEADING | {"steps_offset": 1},
            999,
            None,
            "steps: dpm++2m ends in NaN at 999 steps, for want of timesteps; at most 998",
        ),
        ("dpm++2m", {}, 999, None, None),
        (
            "dpm++2m",
            {},
            1000,
            None,
            "steps: dpm++2m ends in NaN at 1000 steps, for want of timesteps; at most 999",
        ),
        ("dpm++2m-karras", {}, 1000, None, None),
        ("dpm++2m-trailing", {}, 1000, None, None),
        ("euler", LEADING, 1000, None, None),
        ("ddim", {}, 10, None, None),
        (
            "ddim",
            {},
            143,
            None,
            "steps: with 143 steps ddim would take pure noise for a half-finished image: "
            "it begins at timestep 853 of 1000; use 142 or 148",
        ),
        ("dpm++2m", {"algorithm_type": "dpmsolver"}, 20, None, DPM_TO_ZERO),
        ("dpm++2s", {"algorithm_type": "dpmsolver"}, 20, None, DPM_TO_ZERO),
        ("dpm", {"final_sigmas_type": "zero"}, 20, None, DPM_TO_ZERO),
        ("lcm", {}, 51, None, "steps: lcm has at most 50 (its option original_inference_steps), not 51"),
        ("ddim", {}, 20, 0.5, None),
        ("tcd", {}, 20, 0.0, None),
        ("euler-a", {}, 20, 0.0, "eta: euler-a has no eta; the schedulers that have it: ddim, tcd"),
    ],
)
def test_steps_and_eta_are_checked(
    name: str, options: dict[str, str], steps: int, eta: float | None, refusal: str | None
) -> None:
    try:
        found = check_run(resolve(name, options), steps, eta)
    except ConfigError as exc:
        found = str(exc)
    assert found == refusal


@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.0), ("tcd", 0.3), ("euler-a", None), ("heun", None)])
def test_a_row_says_which_eta_runs_when_the_job_gives_none(name: str, eta: float | None) -> None:
    assert resolve(name).scheduler.default_eta == eta


# --- what a model brings ------------------------------------------------------------------------------------

ORDINARY = {"_class_name": "PNDMScheduler", "timestep_spacing": "leading"}
TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
LCM = {"_class_name": "LCMScheduler", "timestep_spacing": "leading"}
ZERO_SNR = {
    "_class_name": "DDIMScheduler",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
}


@pytest.mark.parametrize(
    ("own", "name", "options", "is_given", "fitted"),
    [
        (ORDINARY, "dpm++2m-karras", {}, False, ("dpm++2m-karras", {})),
        (ORDINARY, "Euler a", {}, True, ("euler-a", {})),
        ({}, "Euler a", {}, False, ("euler-a", {})),
        ({"_class_name": "NewScheduler"}, "ddim", {}, True, ("ddim", {})),
        (TURBO, "dpm++2m-karras", {}, False, ("euler-a-trailing", {})),
        (TURBO, "euler", {}, True, ("euler-trailing", {})),
        (TURBO, "ddim", {"steps_offset": 0}, True, ("ddim-trailing", {"steps_offset": 0})),
        (TURBO, "euler-karras", {}, True, ("euler-karras", {})),
        (TURBO, "Euler Uniform", {}, True, ("euler", {"timestep_spacing": "linspace"})),
        (TURBO, "euler", LEADING, True, ("euler", LEADING)),
        (TURBO, "dpm++2s", {}, True, ("dpm++2s", {})),
        (LCM, "dpm++2m-karras", {}, False, ("lcm", {})),
        (LCM, "tcd", {}, True, ("tcd", {})),
        (LCM, "euler", {}, True, ("euler", {})),
        (ZERO_SNR, "ddim", {}, True, ("ddim-trailing", {})),
        (ZERO_SNR, "euler", {}, True, ("euler", {})),
    ],
)
def test_what_a_model_was_distilled_for_is_used_and_defaults_of_diffusers_are_not(
    own: dict[str, str], name: str, options: dict[str, Any], is_given: bool, fitted: tuple[str, object]
) -> None:
    found, chosen, note = fit_to_model(name, options, own, is_given)
    assert (found, chosen) == fitted
    assert fit_to_model(found, chosen, own, True)[:2] == fitted  # an image that is painted again
    assert bool(note) == (
        own in (TURBO, LCM, ZERO_SNR)
        and (name, own) not in (("tcd", LCM), ("dpm++2s", TURBO), ("euler", ZERO_SNR))
    )


EPSILON = ZERO_SNR | {"prediction_type": "epsilon"}


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("lms", ZERO_SNR, "zero terminal SNR, which lms does not support; use ddim, euler, euler-a, dpm"),
        ("heun", EPSILON, "which heun does not support"),
        ("lms", ORDINARY, ""),
        ("euler", ZERO_SNR, ""),
        ("euler", EPSILON, ""),
        ("ddim-trailing", ZERO_SNR, ""),
        ("ddim-trailing", EPSILON, "ddim-trailing ends in NaN with zero terminal SNR if the model predicts"),
        ("tcd-trailing", EPSILON, "it needs prediction_type: v_prediction, or zero_snr: off"),
        ("ddim", EPSILON, ""),
    ],
)
def test_what_cannot_run_with_zero_terminal_snr_is_refused(
    name: str, own: dict[str, Any], message: str
) -> None:
    try:
        check_noise_schedule(resolve(name), own)
        found = ""
    except ConfigError as exc:
        found = str(exc)
    assert bool(found) == bool(message)
    assert message in found


@pytest.mark.parametrize(
    ("name", "steps", "fragment"),
    [
        ("ddim", 1, ""),
        (
            "ddim",
            3,
            "begins at timestep 667 of 1000, but what it begins with is pure noise, as at the last timestep; "
            "ddim-trailing begins there",
        ),
        ("ddim", 9, ""),
        ("ddim-trailing", 3, ""),
        ("heun", 1, ""),
        ("heun", 2, "with 2 steps heun leaves noise in the image; use at least 4"),
        ("heun", 4, ""),
        ("sa-solver-beta", 20, "use at least 24"),
    ],
)
def test_too_few_steps_have_a_note(name: str, steps: int, fragment: str) -> None:
    note = few_steps(resolve(name), steps)
    assert fragment in note
    assert bool(note) == bool(fragment)


# --- facts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "steps", "calls"),
    [
        ("ddim", 20, 20),
        ("pndm", 20, 21),
        ("pndm", 1, 1),
        ("heun", 20, 39),
        ("dpm2-a", 20, 39),
        ("dpm++sde", 1, 1),
    ],
)
def test_equal_steps_are_not_equal_work(name: str, steps: int, calls: int) -> None:
    assert resolve(name).unet_calls(steps) == calls


def test_options_are_read_from_the_source_of_diffusers_without_importing_it() -> None:
    script = (
        "import sys\n"
        "from sdapp.scheduler_table import TABLE\n"
        "from sdapp.schedulers import constructor_options\n"
        "print(all(constructor_options(row.class_name)['num_train_timesteps'] == '1000' for row in TABLE))\n"
        "print([name for name in ('torch', 'diffusers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True", "[]"]


def test_defaults_are_those_of_the_source() -> None:
    assert constructor_options("EulerDiscreteScheduler")["timestep_spacing"] == "'linspace'"
