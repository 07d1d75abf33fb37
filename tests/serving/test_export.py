"""The pushed model, loaded as TF Serving loads it, computes what the model in memory computes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving import export, golden, names
from serving.golden import answer_in_memory, read_golden
from serving.signatures import create_signatures
from tests import emulators
from tests.forked import Forked
from tests.numeric import assert_close, assert_same_answers
from tests.serving.conftest import CONFIG_YAML, Exported, Reloaded, png
from tests.trainer import tiny
from trainer.data import features
from trainer.model_card import EXPORTED_CARD, Digests, ModelCard
from trainer.quality.importance import SampledBound
from trainer.storage import files

EVERY_OUTPUT = {
    names.LABEL, names.LABEL_INDEX, names.PROBABILITY, names.PROBABILITIES, names.TOP_K_LABELS,
    names.TOP_K_PROBABILITIES, names.EMBEDDING, names.ELBO, names.RECONSTRUCTION_ERROR,
    names.OUTLIER_SCORE, names.VERDICT,
}  # fmt: skip
"""What `annotate` promises."""


def example(content: bytes, label: str | None) -> bytes:
    made = tf.train.Example()
    made.features.feature[features.ENCODED].bytes_list.value.append(content)
    if label is not None:
        made.features.feature[features.LABEL_TEXT].bytes_list.value.append(label.encode())
    return made.SerializeToString()


@pytest.fixture(scope="module")
def answers(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every signature's answer from a fresh process."""
    folder = tmp_path_factory.mktemp("session")
    contents = np.array(exported.contents, object)
    labelled = zip(exported.contents, exported.labels, strict=True)
    records = np.array([example(content, label) for content, label in labelled], object)
    requests = {
        names.SERVING_DEFAULT: contents,
        names.ANNOTATE: contents,
        names.ANNOTATE_PIXELS: exported.pixels,
        names.CLASSIFY_EXAMPLES: records,
        names.TRANSFORM_LABELS: records,
        names.EMBED: contents,
        names.SCORE: contents,
        names.RECONSTRUCT: contents,
        names.GENERATE: np.zeros([3, 16], np.float32),
    }
    np.savez(folder / "requests.npz", **requests)
    process = Forked(
        "tests.serving.session_loader", str(exported.folder), str(folder / "requests.npz"),
        str(folder / "answers.npz"), output=folder / "printed.txt",
    )  # fmt: skip
    assert process.wait() == 0, process.text
    with np.load(folder / "answers.npz", allow_pickle=True) as found:
        return {name: found[name] for name in found.files}


@pytest.fixture(scope="module")
def analysis(exported: Exported) -> dict[str, np.ndarray]:
    unit = tf.constant(exported.pixels, tf.float32) / 255.0
    return {name: value.numpy() for name, value in exported.model.analyse(unit).items()}


@pytest.mark.parametrize("signature", [names.ANNOTATE, names.ANNOTATE_PIXELS])
def test_a_fresh_process_gives_the_numbers_of_the_model_in_memory(
    answers: dict[str, Any], analysis: dict[str, np.ndarray], signature: str
) -> None:
    for name in (names.PROBABILITIES, names.EMBEDDING, names.ELBO, names.RECONSTRUCTION_ERROR,
                 names.OUTLIER_SCORE):  # fmt: skip
        assert_close(answers[f"{signature}/{name}"], analysis[name], name)


def test_annotate_answers_everything_and_the_others_their_part(answers: dict[str, Any]) -> None:
    def outputs(signature: str) -> set[str]:
        return {key.split("/")[1] for key in answers if key.startswith(f"{signature}/")}

    assert outputs(names.ANNOTATE) == outputs(names.ANNOTATE_PIXELS) == EVERY_OUTPUT
    assert outputs(names.CLASSIFY_EXAMPLES) == {
        names.LABEL,
        names.PROBABILITIES,
        names.ELBO,
        names.OUTLIER_SCORE,
    }
    assert outputs(names.EMBED) == {names.EMBEDDING}
    assert outputs(names.SCORE) == {
        names.ELBO, names.RECONSTRUCTION_ERROR, names.OUTLIER_SCORE, names.VERDICT,
    }  # fmt: skip
    for signature in (
        names.SERVING_DEFAULT,
        names.EMBED,
        names.SCORE,
        names.CLASSIFY_EXAMPLES,
    ):
        for name in outputs(signature):
            found, expected = answers[f"{signature}/{name}"], answers[f"{names.ANNOTATE}/{name}"]
            assert_same_answers({name: found}, {name: expected})


def test_labels_and_probabilities_hold_together(
    exported: Exported, answers: dict[str, Any]
) -> None:
    part = {key.split("/")[1]: value for key, value in answers.items()
            if key.startswith("annotate/")}  # fmt: skip
    np.testing.assert_allclose(part[names.PROBABILITIES].sum(axis=1), 1, rtol=1e-5)
    best = part[names.PROBABILITIES].argmax(axis=1)
    np.testing.assert_array_equal(part[names.LABEL_INDEX], best)
    assert [exported.transform.classes[n].encode() for n in best] == part[names.LABEL].tolist()
    np.testing.assert_array_equal(part[names.TOP_K_LABELS][:, 0], part[names.LABEL])
    assert np.all(np.diff(part[names.TOP_K_PROBABILITIES], axis=1) <= 0)
    accuracy = np.mean([a.decode() == b for a, b in
                        zip(part[names.LABEL], exported.labels, strict=True)])  # fmt: skip
    assert accuracy > 0.9
    assert set(part[names.VERDICT].tolist()) <= {b"accept", b"review", b"reject"}


def test_labels_are_numbered_as_the_probabilities_are(
    exported: Exported, answers: dict[str, Any]
) -> None:
    numbers = answers[f"{names.TRANSFORM_LABELS}/{names.LABEL_INDEX}"]
    assert numbers.shape == (len(exported.labels), 1)
    assert [exported.transform.classes[n] for n in numbers[:, 0]] == exported.labels


def test_images_come_back_as_levels(exported: Exported, answers: dict[str, Any]) -> None:
    reconstruction = answers[f"{names.RECONSTRUCT}/{names.IMAGE}"]
    assert reconstruction.dtype == np.uint8
    assert reconstruction.shape == exported.pixels.shape
    error = np.abs(reconstruction.astype(int) - exported.pixels).mean()
    assert error < np.abs(exported.pixels - exported.pixels.mean()).mean()
    assert answers[f"{names.GENERATE}/{names.IMAGE}"].shape == (3, 8, 8, 1)


def test_only_core_operations_are_in_the_graph(answers: dict[str, Any]) -> None:
    operations = set(answers["operations"].tolist())
    # Known to TensorFlow's core, of which TF Serving has all: no op of an add-on, which would have
    # to be loaded. `raw_ops` lists what is in the core.
    functional = {"_Arg", "_Retval", "PartitionedCall", "StatefulPartitionedCall"}
    assert {name for name in operations - functional if not hasattr(tf.raw_ops, name)} == set()
    assert "DecodeImage" in operations
    assert {name for name in operations if "Py" in name and "Func" in name} == set()


def test_an_answer_does_not_depend_on_the_batch(exported: Exported, reloaded: Reloaded) -> None:
    annotate = reloaded.signatures[names.ANNOTATE]
    together = annotate(image_bytes=tf.constant(exported.contents[:64]))
    for place in (0, 17, 63):
        alone = annotate(image_bytes=tf.constant(exported.contents[place : place + 1]))
        assert alone[names.LABEL][0] == together[names.LABEL][place]
        assert_close(alone[names.OUTLIER_SCORE][0], together[names.OUTLIER_SCORE][place])


def test_the_same_pixels_in_another_file_have_the_same_bound(exported: Exported) -> None:
    model, transform = exported.model, exported.transform
    signatures = create_signatures(model, transform, sampled_bound=SampledBound(3, share=0.5))
    function = next(s.function for s in signatures if s.name == names.CLASSIFY_EXAMPLES)
    bounds = []
    for level in (0, 9):
        files = [tf.io.encode_png(image, level).numpy() for image in exported.pixels[:32]]
        answer = function(tf.constant([example(file, None) for file in files]))
        bounds.append(answer[names.IMPORTANCE_BOUND].numpy())
    measured = ~np.isnan(bounds[0])
    assert 0 < measured.sum() < 32
    np.testing.assert_array_equal(measured, ~np.isnan(bounds[1]))
    assert_close(bounds[1][measured], bounds[0][measured])


def test_images_of_other_sizes_are_resized_alike_by_both_ways_in(reloaded: Reloaded) -> None:
    large = np.random.default_rng(2).integers(0, 256, (5, 40, 30, 3), np.uint8)
    by_bytes = reloaded.signatures[names.ANNOTATE](
        image_bytes=tf.constant([png(image) for image in large])
    )
    by_pixels = reloaded.signatures[names.ANNOTATE_PIXELS](pixels=tf.constant(large))
    assert_same_answers(by_bytes, by_pixels)


def test_a_corrupt_image_is_an_error_and_the_model_lives_on(
    exported: Exported, reloaded: Reloaded
) -> None:
    annotate = reloaded.signatures[names.ANNOTATE]
    with pytest.raises(tf.errors.InvalidArgumentError):
        annotate(image_bytes=tf.constant([exported.contents[0], b"no image"]))
    assert annotate(image_bytes=tf.constant(exported.contents[:1]))[names.LABEL].shape == (1,)


def test_warm_up_requests_name_signatures_that_answer(
    exported: Exported, reloaded: Reloaded
) -> None:
    path = exported.folder / names.EXTRA_ASSETS / names.WARM_UP
    asked = []
    for record in tf.data.TFRecordDataset(str(path)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        outputs = reloaded.signatures[request.model_spec.signature_name](
            **{key: tf.constant(value) for key, value in inputs.items()}
        )
        (rows,) = {len(value) for value in inputs.values()}
        assert {len(value) for value in outputs.values()} == {rows}
        asked.append((request.model_spec.signature_name, rows))
    assert len(asked) == 10
    assert (names.SERVING_DEFAULT, 1) in asked
    assert (names.ANNOTATE_PIXELS, 32) in asked


def test_samples_come_from_their_seed(reloaded: Reloaded) -> None:
    sample = reloaded.signatures[names.SAMPLE]

    def draw(count: int, seed: int) -> dict[str, Any]:
        return sample(count=tf.constant(count), seed=tf.constant(seed, tf.int64))

    first = draw(5, 1)
    assert first[names.IMAGE].shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(first[names.LATENT], draw(5, 1)[names.LATENT])
    assert not np.array_equal(first[names.LATENT], draw(5, 2)[names.LATENT])
    again = reloaded.signatures[names.GENERATE](latent=first[names.LATENT])
    # The same numbers through another graph, rounded to levels.
    apart = np.abs(again[names.IMAGE].numpy().astype(int) - first[names.IMAGE].numpy())
    assert apart.max() <= 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="count has to be 1 to 4096"):
        draw(0, 1)


def test_a_save_does_not_trace_the_model_again(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.build(tiny.model_config(), exported.model.image_shape, 10)
    analyse, traced = model.analyse, []

    def counted(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        traced.append(pixels.shape)
        return analyse(pixels)

    monkeypatch.setattr(model, "analyse", counted)
    (signature,) = (
        made
        for made in create_signatures(model, exported.transform)
        if made.name == names.SCORE_PIXELS
    )
    graph = tf.function(signature.function, input_signature=signature.specs, autograph=False)
    assert names.ELBO in graph.get_concrete_function().structured_outputs
    module = tf.Module()
    module.held = [weight.value for weight in model.weights]
    tf.saved_model.save(module, str(tmp_path), signatures={signature.name: graph})
    assert traced == [(None, 8, 8, 1)]


def test_images_of_a_class_name_what_is_wrong(exported: Exported) -> None:
    shape, classes = exported.model.image_shape, len(exported.transform.classes)
    model = tiny.build(tiny.model_config(conditioning="label"), shape, classes)
    made = {made.name: made for made in create_signatures(model, exported.transform)}
    signature = made[names.GENERATE]
    generate = tf.function(signature.function, input_signature=signature.specs, autograph=False)
    latent = tf.zeros([2, 4])
    assert generate(latent, tf.constant(["3", "9"]))[names.IMAGE].shape == (2, *shape)
    everyone = " ".join(exported.transform.classes)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"\[cat\] .* \[{everyone}\]"):
        generate(latent, tf.constant(["cat", "3"]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="a class_label for each latent"):
        generate(latent, tf.constant(["3"]))


def test_the_card_and_the_configuration_lie_beside_the_model(exported: Exported) -> None:
    extra = exported.folder / names.EXTRA_ASSETS
    card = json.loads((exported.folder / EXPORTED_CARD).read_text())
    assert card["classes"] == list("0123456789")
    assert card["image_shape"] == [8, 8, 1]
    assert card["embedding_size"] == 16
    assert card["digests"] == {"model": "abc"}
    assert (extra / names.CONFIG).read_text().strip() == "name: digits"


def test_what_lies_beside_the_graph_is_written_into_a_bucket(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorFlow, which writes the graph and the warm-up by path, does not know the emulator.
    written: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tf.saved_model, "save", lambda _, path, **__: written.append(path))
    monkeypatch.setattr(export, "write_warm_up", lambda path, shape: written.append(path))
    with emulators.cloud_storage() as address, emulators.reached_at(address) as client:
        client.create_bucket("models")
        folder = "gs://models/digits/1"
        export.export_model(
            folder,
            model=exported.model,
            transform=exported.transform,
            card=ModelCard(digests=Digests(model="abc")),
            config_yaml=CONFIG_YAML,
        )
        beside = [names.CONFIG, names.GOLDEN, EXPORTED_CARD.rpartition("/")[2]]
        assert files.list_names(f"{folder}/{names.EXTRA_ASSETS}") == sorted(beside)
        assert read_golden(f"{folder}/{names.EXTRA_ASSETS}/{names.GOLDEN}").files
    assert written == [folder, f"{folder}/{names.EXTRA_ASSETS}/{names.WARM_UP}"]
    assert list(tmp_path.iterdir()) == []


def test_the_golden_set_reads_no_more_files_than_it_has_room_for(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = exported.contents
    monkeypatch.setattr(golden, "MOST_BYTES", len(first) + len(second))
    left = iter(exported.contents)
    found = answer_in_memory(exported.model, exported.transform, left)
    assert found.files[:2] == [first, second]
    assert len(list(left)) == len(exported.contents) - 3
