"""Golden cases in which a stage of the original is off: runners heed the options of a case, and what it holds.

Each variant is a shipped case whose options switch a stage off, whose inputs lack what that stage reads, and whose
expected outputs follow from what the original computed before that stage, by a few lines of plain PyTorch.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import check_golden

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
Tensors = dict[str, Tensor]


def read(name: str) -> check_golden.Case:
    case = check_golden.read_case(GOLDEN / f"{name}.json")
    return replace(case, config=copy.deepcopy(dict(case.config)), tensors=dict(case.tensors))


def keep(case: check_golden.Case, *outputs: str) -> None:
    """Leave out all expected values but some, by the ends of their keys."""
    for key in list(case.tensors):
        if key.startswith(("output.", "intermediate.")) and not key.endswith(outputs):
            del case.tensors[key]


def check(case: check_golden.Case) -> check_golden.Report:
    torch.manual_seed(0)
    with torch.no_grad():
        report = check_golden.compare(case, check_golden.find_runner(case.method)(case))
    assert report.status == "PASS", report.remark
    return report


def bilinear(maps: Tensor, size: Any) -> Tensor:
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def labelled(logits: Tensor, classes: Tensor, config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return class probabilities (K, H, W) and labels (1, H, W) of logits (1, T, H, W), as SCLIP and its kin do."""
    queries = (config["logit_scale"] * logits[0]).softmax(0)
    shares = torch.stack([queries[classes == index].amax(0) for index in range(int(classes.max()) + 1)])
    return shares, shares.argmax(0).where(shares.amax(0) >= config.get("prob_thd", 0), 0)[None].int()


@pytest.mark.parametrize(
    ("name", "logits_key", "twice"),
    [
        ("naclip/slide_pamr", "final_logits", True),
        ("sclip/slide_bg_area", "slide_logits", False),
        ("clearclip/slide_padded", "slide_logits", False),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_whole_images_without_windows_refinement_and_area_rule(name, logits_key, twice, named):
    """What is off may be named as 0 or None, or not at all."""
    case = read(name)
    off = {"crop": 0, "stride": 0, "pamr_steps": 0, "area_thd": None}
    settings = {key: value for key, value in case.config["postprocess"].items() if key not in off}
    case.config["postprocess"] = {**settings, **(off if named else {})}
    maps = case.tensors["output.patch_logits"]
    logits = bilinear(bilinear(maps, case.tensors["input.image"].shape[2:]) if twice else maps, settings["ori"])
    shares, labels = labelled(logits, case.tensors["input.query_idx"], settings)
    stored = shares / shares.sum(0) if twice else shares
    case.tensors.update({f"output.{logits_key}": logits, "output.seg_probs": stored, "output.seg_pred": labels})
    assert "6 outputs" in check(case).remark or "7 outputs" in check(case).remark


@pytest.mark.parametrize("name", ["naclip/slide_pamr", "sclip/slide_bg_area", "clearclip/slide_padded"])
def test_an_output_of_the_size_of_the_image_and_no_threshold(name):
    case = read(name)
    case.config["postprocess"] = {"logit_scale": 40}
    logits = bilinear(case.tensors["output.patch_logits"], case.tensors["input.image"].shape[2:])
    _, labels = labelled(logits, case.tensors["input.query_idx"], {"logit_scale": 40})
    keep(case, "patch_features", "seg_pred", "pred")
    case.tensors["output.seg_pred"] = labels
    check(case)


WITHOUT_TEXTS = (
    "clearclip/square_native_p16_ablations",
    "clip_surgery/square_interp_p8_b2",
    "corrclip/nonsquare_p8",
    "gem/square_native_p16_depth7",
    "maskclip/padded_p16",
    "naclip/square_native_p16",
    "proxyclip/square_interp_p8_batch2",
    "resclip/nonsquare_p8",
)


@pytest.mark.parametrize("name", WITHOUT_TEXTS)
def test_an_encoder_without_texts(name):
    case = read(name)
    del case.tensors["input.text_embeddings"]
    keep(case, "features", "ori_features", "patch_features", "patch_features_rcs", "patch_features_base", "pos_embed")
    if name.startswith("resclip"):  # the feedback is by labels, so the features without it are all there are
        case.tensors["output.patch_features"] = case.tensors["output.patch_features_rcs"]
    check(case)


def test_resclip_without_feedback_and_without_the_middle_blocks():
    case = read("resclip/nonsquare_p8")
    del case.config["attn_sfr_weights"], case.config["temp_thd"]
    keep(case, "patch_features_rcs", "patch_features_base", "attention_rcs")
    case.tensors["output.patch_features"] = case.tensors["output.patch_features_rcs"]
    check(case)
    case.config["attn_rcs_weights"] = None
    keep(case, "patch_features_base")
    case.tensors["output.patch_features"] = case.tensors["output.patch_features_base"]
    check(case)


def test_resclip_with_the_whole_image_behind_it():
    case = read("resclip/nonsquare_p8")
    settings = {"logit_scale": 40, "prob_thd": 0.1, "ori": [70, 97]}
    case.config["postprocess"] = settings
    logits = bilinear(
        bilinear(case.tensors["output.patch_logits"][:1], case.tensors["input.image"].shape[2:]), (70, 97)
    )
    shares, labels = labelled(logits, torch.arange(logits.shape[1]), settings)
    case.tensors.update({"output.final_logits": logits, "output.seg_pred": labels})
    case.tensors["output.seg_probs"] = shares / shares.sum(0)
    check(case)


@pytest.mark.parametrize("refinement", ["none", "None", None, ...])
def test_cliper_without_refinement(refinement):
    """Its code then takes the map of the patches as it is; there is no diffusion model and nothing of one."""
    case = read("cliper/fused_slide_p16")
    for key in ("attention_layers_order", "attention_idx", "refinement"):
        del case.config[key]
    if refinement is not ...:
        case.config["refinement"] = refinement
    seg = case.tensors["output.seg"]
    for key in ("input.sd_attn_layer_-4", "input.sd_attn_layer_-6"):
        del case.tensors[key]
    score = seg.amax((1, 2))
    maps = bilinear(seg[None], case.config["label_size"])[0]
    maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-5) * score[:, None, None]
    case.tensors.update({"output.refined": seg, "output.final_score": score, "output.scores": maps})
    kept = torch.where(score > case.config["score_threshold"], 1, 0)[:, None, None] * maps
    kept = kept * (kept >= case.config["bkg_thre"])
    labels = (kept.argmax(0) + 1).where(kept.amax(0) > 0, 0)
    case.tensors["output.label"] = labels.view_as(case.tensors["output.label"]).to(case.tensors["output.label"])
    check(case)


def test_cliper_without_words_of_the_background_and_without_windows():
    case = read("cliper/fused_slide_p16")
    for key in ("sliding_crop_size", "sliding_stride"):
        del case.config[key]
    del case.tensors["input.bg_text"]
    keep(case, "attn_sum", "final_attn", "final_attn_headmean_patches", "fused_attn_first_layer")
    case.tensors["output.final_attn_again"] = case.tensors["intermediate.final_attn"]
    with torch.no_grad():
        found = check_golden.find_runner("cliper")(case)
    found["output.final_attn_again"] = found["intermediate.final_attn"]
    assert check_golden.compare(case, found).status == "PASS"


def test_proxyclip_windows_beside_given_features():
    """Features of the whole image are given; those of windows come from the stand-in, or are given window by window."""
    case = read("proxyclip/square_interp_p8_batch2")
    generator = torch.Generator().manual_seed(2)
    features = case.tensors["input.vfm_feats"]
    weight = 0.1 * torch.randn(features.shape[1], 3, 14, 14, generator=generator)
    settings = {"logit_scale": 40, "prob_thd": 0.0, "crop": 56, "stride": 28, "pad_multiple": 56, "ori": [61, 49]}
    case.config["postprocess"] = settings
    case.tensors["input.vfm_patch_weight"] = weight
    with torch.no_grad():
        run = check_golden.find_runner("proxyclip")
        by_stand_in = run(case)
        check(case)  # what is of the whole image is as it was
        alone = replace(case, tensors={key: value for key, value in case.tensors.items() if key != "input.vfm_feats"})
        keep(alone, "nothing")
        assert torch.equal(run(alone)["output.slide_logits"], by_stand_in["output.slide_logits"])
        one = replace(
            alone, tensors={key: value for key, value in alone.tensors.items() if "weight" not in key or "state" in key}
        )
        one.tensors["input.vfm_feats"] = windows_of(case.tensors["input.image"][:1], weight)
        torch.testing.assert_close(run(one)["output.slide_logits"], by_stand_in["output.slide_logits"])


def test_proxyclip_of_a_whole_image_with_given_features():
    case = read("proxyclip/nonsquare_original_grid")
    case.config["postprocess"] = settings = {"logit_scale": 40, "ori": [61, 49]}
    logits = bilinear(case.tensors["output.patch_logits"], settings["ori"])
    shares, labels = labelled(logits, torch.arange(logits.shape[1]), settings)
    case.tensors.update({"output.slide_logits": logits, "output.seg_probs": shares, "output.seg_pred": labels})
    check(case)


def windows_of(image: Tensor, weight: Tensor) -> Tensor:
    """Return the features of the windows of 56 pixels, step 28, of a normalised image, by a strided convolution."""
    mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    new_mean, new_std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    mean, std, new_mean, new_std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std, new_mean, new_std))
    height, width = image.shape[2:]
    tops, lefts = (sorted({min(start, side - 56) for start in range(0, side, 28)}) for side in (height, width))
    windows = torch.cat([image[..., top : top + 56, left : left + 56] for top in tops for left in lefts])
    return F.conv2d((windows * std + mean - new_mean) / new_std, weight, stride=14)


@pytest.mark.parametrize("off", ["alpha", "beta"])
@pytest.mark.parametrize("named", [True, False])
def test_corrclip_without_a_branch(off, named):
    case = read("corrclip/nonsquare_p8")
    norm = [case.tensors[f"state_dict.visual.ln_post.{part}"] for part in ("weight", "bias")]
    branches = case.tensors["intermediate.branches_pre_sum"]
    main, spatial, semantic = F.layer_norm(branches, branches.shape[-1:], *norm, case.config["ln_eps"])
    weights = {"alpha": 1.0, "beta": 0.5, off: 0.0}
    assert {"alpha": case.config["alpha"], "beta": case.config["beta"], off: 0.0} == weights
    if named:
        case.config[off] = 0
    else:
        del case.config[off]
    keep(case, "attention", "branches_pre_sum")
    summed = main + weights["alpha"] * spatial + weights["beta"] * semantic
    case.tensors["output.features"] = (summed @ case.tensors["state_dict.visual.proj"])[None]
    check(case)


def test_corrclip_without_regions_and_merging():
    """Then all pairs of patches that are likelier than the mean attend to each other."""
    case = read("corrclip/nonsquare_p8")
    del case.tensors["input.masks"], case.config["dbscan"]
    unit = F.normalize(case.tensors["input.dino_feats"], dim=-1)
    cosines = unit @ unit.mT
    attention = (case.config["tau"] * cosines).masked_fill(cosines <= cosines.mean(), -torch.inf).softmax(-1)
    keep(case, "nothing")
    case.tensors["intermediate.attention"] = attention
    with torch.no_grad():
        found = check_golden.find_runner("corrclip")(case)
    torch.testing.assert_close(found["intermediate.attention"], attention, atol=2e-5, rtol=1e-4)


def test_cliptrase_whose_patches_are_all_noise():
    case = read("cliptrase/cluster_rect")
    case.config["dbscan_eps"] = 1e-6
    del case.config["cls_modulation"]
    case.tensors["output.label_map"] = case.tensors["intermediate.label_map_before_vote"]
    case.tensors["output.dbscan_labels"] = torch.full_like(case.tensors["output.dbscan_labels"], -1)
    keep(case, "output.label_map", "dbscan_labels", "affinity", "logits", "before_vote")
    check(case)


def test_dinoiser_without_the_rule_for_the_background():
    case = read("clip_dinoiser/infer_p16_nobkg")
    for key in ("apply_found", "delta"):
        del case.config[key]
    for key in [key for key in case.tensors if key.startswith("state_dict.bkg_decoder")]:
        del case.tensors[key]
    del case.tensors["output.bkg_logits"]
    check(case)


def test_surgery_without_the_redundant_text_and_points():
    case = read("clip_surgery/square_interp_p8_b2")
    for key in ("points_threshold", "points_down_sample", "ori_shape"):
        del case.config[key]
    del case.tensors["input.redundant_text"]
    for kind in ("", "_plain"):
        patches = case.tensors[f"output.similarity{kind}"][:, 1:]
        low, high = patches.amin(1, keepdim=True), patches.amax(1, keepdim=True)
        side = round(patches.shape[1] ** 0.5)
        grid = ((patches - low) / (high - low)).mT.unflatten(2, (side, side))
        case.tensors[f"output.map{kind}"] = bilinear(grid, case.tensors["input.image"].shape[2:]).permute(0, 2, 3, 1)
    keep(case, "map", "map_plain", "similarity", "similarity_plain", "image_features")
    check(case)


def test_maskclip_without_its_refinements():
    case = read("maskclip/padded_p16")
    for key in ("pd_thresh", "ks_thresh"):
        del case.config[key]
    keep(case, "output.logits", "patch_features", "patch_logits", "pred", "pos_embed", "intermediate.v")
    check(case)


def test_falip_without_words():
    case = read("falip/box_base")
    del case.tensors["input.text"], case.tensors["output.logits"], case.config["logit_scale"]
    check(case)


def test_zero_guidance_without_subtraction():
    case = read("zero_guidance/global_subtraction")
    del case.config["sd_global_subtraction"]
    keep(case, "output.embedding_no_subtraction", "embedding_plain", "soft_masks")
    case.tensors["output.embedding"] = case.tensors["output.embedding_no_subtraction"]
    check(case)


def test_itaclip_with_fewer_options_named():
    case = read("itaclip/segmentor_slide_plain")
    for key in ("pamr_applied", "pamr_steps", "pamr_dilations", "area_thd", "prob_thd"):
        del case.config[key]
    check(case)
    case = read("itaclip/postprocess_synonyms")
    before = case.tensors["intermediate.label_map_before_closing"]
    del case.config["area_thd"], case.config["prob_thd"]
    shares, labels = labelled(case.tensors["input.logits"], case.tensors["input.query_idx"], case.config)
    keep(case, "nothing")
    case.tensors["output.class_scores"] = shares
    case.tensors["intermediate.label_map_before_closing"] = labels.view(before.shape).to(before.dtype)
    check(case)


OBJECTS = ("panoptic_on", "instance_on", "object_mask_threshold", "overlap_threshold", "thing_class_ids", "topk")


def log_shares(case: check_golden.Case, index: int) -> Tensor:
    return case.tensors["intermediate.mask_cls"][index].softmax(-1)[:, :-1]


def class_maps(shares: Tensor, masks: Tensor, sizes: list[Any], masks_first: bool) -> Tensor:
    """Bring masks (Q, h, w) to the padded input, the image in it, and the output, the sigmoid behind that or before."""
    padded, own, output = sizes
    masks = bilinear(masks[None], padded)
    if masks_first:
        masks = bilinear(masks[..., : own[0], : own[1]], output)
    maps = torch.einsum("qk,qhw->khw", shares, masks[0].sigmoid())
    return maps if masks_first else bilinear(maps[None, :, : own[0], : own[1]], output)[0]


def without_objects(case: check_golden.Case, masks_first: bool) -> None:
    """Switch panoptic and instance results off, and work out the semantic ones of the masks of the original."""
    for key in OBJECTS:
        case.config.pop(key, None)
    case.config["post_before"] = masks_first
    images = [case.tensors[f"input.image.{i}"] for i in range(len(case.config["output_sizes"]))]
    padded = [-(-max(image.shape[side] for image in images) // 32) * 32 for side in (1, 2)]
    found = {}
    for i, image in enumerate(images):
        sizes = [padded, image.shape[1:], case.config["output_sizes"][i]]
        masks = case.tensors["intermediate.pred_masks"][i]
        found[f"output.{i}.sem_seg"] = class_maps(log_shares(case, i), masks, sizes, masks_first)
    for key in [key for key in case.tensors if key.startswith("output.")]:
        del case.tensors[key]
    case.tensors.update(found)


@pytest.mark.parametrize("masks_first", [True, False])
def test_fcclip_without_objects(masks_first):
    case = read("fcclip/full_semantic_a")
    before = {key: value for key, value in case.tensors.items() if key.startswith("output.")}
    assert not case.config["post_before"]
    without_objects(case, masks_first)
    if not masks_first:  # the case is so itself
        for key, value in before.items():
            torch.testing.assert_close(case.tensors[key], value, atol=1e-4, rtol=1e-4)
    check(case)


@pytest.mark.parametrize("masks_first", [True, False])
def test_maft_plus_without_objects(masks_first):
    case = read("maft_plus/full_panoptic_a")
    panoptic = case.config["panoptic_on"]
    without_objects(case, masks_first)
    del case.config["rc_weights"]
    if masks_first:  # the option is that of the transfer, too, and with segments masks always come first
        case.config["panoptic_on"] = panoptic
        check(case)


@pytest.mark.parametrize("off", ["panoptic_on", "instance_on"])
def test_masks_of_which_one_kind_of_object_is_made(off):
    case = read("fcclip/postprocess_thr_a")
    case.config[off] = False
    if off == "panoptic_on":
        for key in ("object_mask_threshold", "overlap_threshold", "thing_class_ids"):
            del case.config[key]
        keep(case, "sem_seg")
        check(case)
        shares = case.tensors["input.mask_cls"].softmax(-1)[:, :-1].flatten()
        best = shares.topk(30).indices % case.config["num_classes"]  # of all classes, and not of things alone
        with torch.no_grad():
            found = check_golden.find_runner("fcclip")(case)
        assert "output.panoptic_seg" not in found
        assert torch.equal(found["output.instances.classes"].sort().values, best.sort().values)
    else:
        del case.config["topk_per_image"]
        keep(case, "sem_seg", "panoptic_seg", "panoptic_segments")
        check(case)


def test_the_ensemble_without_masks():
    case = read("fcclip/ensemble_a")
    del case.tensors["input.mask_logits"], case.tensors["intermediate.valid_mask"]
    del case.config["ensemble_on_valid_mask"], case.config["clip_size"]
    check(case)


def test_san_whose_options_are_those_of_its_paper():
    case = read("san/full_nonsquare_pad")
    for key in ("rec_cross_attn", "rec_downsample_method", "sos_token_format", "size_divisibility", "asymetric_input"):
        usual = {"rec_cross_attn": False, "rec_downsample_method": "max", "sos_token_format": "cls_token"}
        if case.config[key] == {**usual, "size_divisibility": 32, "asymetric_input": True}[key]:
            del case.config[key]
    if case.config["sem_seg_postprocess_before_inference"]:
        del case.config["sem_seg_postprocess_before_inference"]
    check(case)


def test_pamr_without_a_round():
    case = read("pamr/batch2_prob")
    case.config["num_iter"] = 0
    size = case.tensors["input.image"].shape[2:]
    mask = F.interpolate(case.tensors["input.mask"], size, mode="bilinear", align_corners=True)
    case.tensors["output.refined"] = mask
    check(case)
