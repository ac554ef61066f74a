import keras
import pytest

from bilstm_classify import get_bi_lstm_model


@pytest.mark.parametrize(
    ("mode", "parameters"),
    [("concat", 3561), ("sum", 3541), ("mul", 3541), ("ave", 3541)],
)
def test_layers_and_parameters_are_the_tutorials(mode, parameters):
    model = get_bi_lstm_model(10, mode)
    bidirectional, dense = model.layers
    assert isinstance(bidirectional, keras.layers.Bidirectional)
    assert isinstance(bidirectional.forward_layer, keras.layers.LSTM)
    assert bidirectional.forward_layer.units == bidirectional.backward_layer.units == 20
    assert bidirectional.backward_layer.go_backwards
    assert bidirectional.merge_mode == mode
    assert isinstance(dense, keras.layers.Dense) and dense.units == 1
    assert model.count_params() == parameters
    assert model.input_shape == model.output_shape == (None, 10, 1)


def test_concat_is_the_default():
    assert get_bi_lstm_model(10).layers[0].merge_mode == "concat"
