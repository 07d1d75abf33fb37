"""A network of a few layers that takes the place of one of keras.applications, to train fast."""

import keras

NAME = "DenseNet121"
SHAPE = (32, 32, 3)


def network(
    include_top: bool = False,
    weights: str | None = None,
    input_shape: tuple[int, int, int] = SHAPE,
    pooling: str = "avg",
) -> keras.Model:
    """Three blocks with what the networks of keras.applications consist of."""
    assert (include_top, weights, pooling) == (False, None, "avg")
    layers = keras.layers
    inputs = keras.Input(input_shape)
    values = layers.Conv2D(4, 3, strides=4, use_bias=False, name="block_1_conv")(inputs)
    values = layers.BatchNormalization(name="block_1_norm")(values)
    values = layers.Activation("relu")(values)
    values = layers.ZeroPadding2D()(values)
    values = layers.Conv2D(4, 3, strides=2, groups=4, name="block_2_conv")(values)
    values = layers.BatchNormalization(scale=False, momentum=0.999, name="block_2_norm")(values)
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(values)
    squeezed = layers.Conv2D(4, 1, activation="sigmoid", name="block_2_squeeze")(squeezed)
    values = layers.Multiply()([values, squeezed])
    added = layers.Conv2D(4, 1, name="block_2_branch")(values)
    values = layers.Add()([values, layers.Dropout(0.5)(added)])
    values = layers.Conv2D(8, 3, strides=2, padding="same", name="block_3_conv")(values)
    values = layers.BatchNormalization(name="block_3_norm")(values)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(values), name="tiny")


# Preprocessing is that of the network whose place it takes.
network.__module__ = keras.applications.DenseNet121.__module__
