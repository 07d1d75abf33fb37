"""Checks by the account of an ingest that a classifier can be trained and tested on the images.

`ingest.py` calls it once all images are counted.
"""

import glob
from collections import Counter
from typing import Final

from components.image_example_gen.account import Account
from components.image_example_gen.layout_hints import (
    find_classes_above,
    manifest_advice,
    paired_notes,
)
from components.image_sources.config import InputConfig
from components.image_sources.corrections import TAKEN_OUT
from components.image_sources.origins import LABEL, UNREAD
from trainer.data import features
from trainer.errors import InputError
from trainer.name_lists import named

_MANY: Final = 20
"""Images of a class of which a hash surely leaves some in train."""


def check_account(account: Account, config: InputConfig, rejects_path: str = "") -> None:
    """Checks that training can use the result of an ingest.

    Args:
        account: The sum over all parts.
        config: The input section.
        rejects_path: The path of the rejects table, for error messages; empty if there is none.

    Raises:
        InputError: if no image is usable, too many were rejected, or a class has too few images.
    """
    where = ", ".join(config.paths)
    if not account.images_in:
        ignored = account.ignored.summary()
        rest = f", except for ignored entries: {ignored}" if ignored else ""
        if any(name.endswith(".parquet") for name in account.ignored.examples.get("side_file", ())):
            rest += f"; if the Parquet files hold images, name them: {where}/**/*.parquet"
        raise InputError(f"{where}: no images; the archive or folder is empty{rest}")
    reasons = ", ".join(f"{reason} {number}" for reason, number in account.rejected.most_common(5))
    see = f"; see {rejects_path}" if rejects_path else ""
    rejected = account.rejected.total()
    if not account.examples.total():
        raise InputError(
            f"{where}: no usable image among {account.images_in} members ({reasons or 'none'}){see}"
        )
    # People chose to take these out: no sign of a damaged archive.
    share = (rejected - account.rejected["taken_out"]) / account.images_in
    if share > config.max_rejected_share:
        raise InputError(
            f"{where}: {rejected} of {account.images_in} members rejected ({share:.1%}, the limit"
            f" max_rejected_share is {config.max_rejected_share:.1%}): {reasons}{see}"
        )
    _check_classes(account, config, where)


def _check_classes(account: Account, config: InputConfig, where: str) -> None:
    """Raises if a class has too few images to be both learned and tested."""
    totals = account.class_totals()
    taken_out = account.rejected["taken_out"]
    if totals[TAKEN_OUT] and taken_out:
        raise InputError(
            f"{where}: '{TAKEN_OUT}' is a class with {totals[TAKEN_OUT]:,} images, but in"
            f" labels.corrections it takes an image out, as it did with {taken_out:,}: rename the"
            f" class, and in {', '.join(config.labels.corrections)} the label of the images that"
            " belong to it"
        )
    few = {label: n for label, n in sorted(totals.items()) if n < config.labels.min_images}
    if few:
        named = ", ".join(f"'{label}' ({n})" for label, n in list(few.items())[:5])
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        if len(few) > max(_MANY, totals.total() // 2):
            source = ", ".join(account.origins.examples.get(LABEL, []))
            raise InputError(
                f"{where}: {len(totals):,} classes for {totals.total():,} images, such as"
                f" {named}{more}: {source} names no classes; set labels.level, or the key or column"
                " of the label, or format: tar for the folders of a tar"
            )
        raise InputError(
            f"{where}: classes with fewer than {config.labels.min_images} images: {named}{more};"
            " add images, remove the class, or lower labels.min_images"
        )
    table = account.by_split()
    unlearnt = sorted(set(totals) - set(table[features.TRAIN]))
    if unlearnt:
        raise InputError(f"{where}: {_why_unlearnt(unlearnt, totals, account, config)}")
    if not totals:
        none = f"{where}: none of the {account.examples.total():,} images has a label, so there is"
        if above := find_classes_above(account.origins):
            raise InputError(
                f"{none} nothing to learn: they lie in {above.folders()}, taken for splits;"
                f" {above.advice()}"
            )
        if unread := account.origins.examples.get(UNREAD):
            raise InputError(f"{none} nothing to learn: {unread[0]}; classify needs no labels")
        archives = len(config.paths) > 1 or any(map(glob.has_magic, config.paths))
        each = "; or, if each archive holds one class, unpack it into a folder of that name"
        raise InputError(
            f"{none} nothing to learn: put them into folders named after their classes, below this"
            f" path{each * archives}; or {manifest_advice(config)}; or set labels.level, or"
            " labels.pattern if the files' names hold the classes, or the key or column of the"
            " label (manifest.label, parquet.label, tfrecord.label, webdataset.label); classify"
            " needs no labels"
        )
    if len(totals) == 1:
        (only,) = totals
        masks = next(paired_notes(account.origins), "")
        if masks:
            raise InputError(
                f"{where}: one class only, '{only}' ({totals[only]:,} images); {masks}"
            )
        raise InputError(
            f"{where}: one class only, '{only}' ({totals[only]:,} images), and a classifier needs"
            " two: name folders of other classes as well, or set labels.level if the classes are"
            " other folders of the path, or labels.pattern if the files' names hold them"
        )
    if not table[features.TEST]:
        share = config.splits.test
        raise InputError(
            f"{where}: none of the {totals.total():,} labelled images is in the test split (the"
            f" share input.splits.test is {share:g}), and without test images no model is blessed:"
            " add images, raise the share, or name a test folder"
        )


def _why_unlearnt(
    unlearnt: list[str], totals: Counter[str], account: Account, config: InputConfig
) -> str:
    """Says why classes have no training image, and what can help."""
    shown = named((f"'{label}' ({totals[label]})" for label in unlearnt), most=5)
    what = (
        f"no image in the train split for class {shown}"
        if len(unlearnt) == 1
        else f"{len(unlearnt):,} of {len(totals):,} classes have no image in the train split:"
        f" {shown}"
    )
    shares = {
        features.VALIDATION: config.splits.validation,
        features.CALIBRATION: config.splits.calibration,
        features.TEST: config.splits.test,
    }
    hashed = [split for split in shares if split not in account.named_splits]
    held_out = sum(shares[split] for split in hashed)
    if hashed and account.near["moved"]:
        return (
            f"{what}; near-duplicates share a split (input.duplicates.near: group), for which"
            f" {account.near['moved']:,} images were moved: add images that differ, change"
            " splits.seed, or set input.duplicates.near: report"
        )
    if not hashed or not held_out or any(totals[label] > _MANY for label in unlearnt):
        return f"{what}; all of its images are in other splits by their names; add images to train"
    expected = sum(held_out**number for number in totals.values())
    seed = ", or change splits.seed" if expected < 1 else ""
    return (
        f"{what}; a hash holds {held_out:.0%} of the images out ({', '.join(hashed)}), which leaves"
        f" about {expected:,.1f} classes of these sizes without one: add images of these classes,"
        f" lower the shares, or name the splits by folders{seed}"
    )
