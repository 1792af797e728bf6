/**
 * nibble quantizes language models to 4 bits and fine-tunes them, on any GPU that WebGPU reaches, with no Python and no CUDA.
 *
 * @example Quantize a model to NF4
 * ```ts
 * import { openDevice, quantizeFourBit, Random, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const random = new Random(42);
 * const weight = tensor(device, Float32Array.from({ length: 4096 }, () => random.normal()), [64, 64]);
 * const nf4 = await quantizeFourBit(weight, { doubleQuant: true });
 * console.log(`${weight.bytes} bytes became ${nf4.bytes}`);
 * ```
 *
 * @module
 */

// core: the device, tensors, gradients, recorded steps
export type { AdapterDescription } from "./core/adapter.ts";
export {
  backward,
  type BackwardRule,
  checkpoint,
  type EarlierGradients,
  type Node,
  noGrad,
} from "./core/autograd.ts";
export type { ActivationType } from "./core/halves.ts";
export type { Binding, Texels, Uniform } from "./core/binding.ts";
export {
  capture,
  type CapturedStep,
  type CaptureOptions,
  type HostArray,
  type StepInput,
  type StepResult,
} from "./core/capture.ts";
export type { Grid } from "./core/commands.ts";
export { Device, type DeviceCounters, openDevice } from "./core/device.ts";
export type { Access, Constants, Kernel } from "./core/kernel.ts";
export type { MemoryUse } from "./core/pool.ts";
export { Random } from "./core/random.ts";
export { type DType, empty, Tensor, tensor, type TypedArray, zeros } from "./core/tensor.ts";
export type { TexelKind } from "./core/texels.ts";

// kernels: the ops
export { attention, type AttentionOptions } from "./kernels/attention/attention.ts";
export { cacheAppend } from "./kernels/attention/cache_append.ts";
export { cachedAttention } from "./kernels/attention/cached_attention.ts";
export { rope } from "./kernels/attention/rope.ts";
export { type AppendTarget, ropeAppend } from "./kernels/attention/rope_append.ts";
export { conv2d, type Conv2dOptions } from "./kernels/conv/conv2d.ts";
export { embedding } from "./kernels/embedding/embedding.ts";
export { int8Matmul, type Int8MatmulOptions } from "./kernels/linear/int8_matmul.ts";
export { codeSums } from "./kernels/linear/int8_product.ts";
export { matmul, type MatmulOptions } from "./kernels/linear/matmul.ts";
export {
  type InputNorm,
  multiplyGated,
  multiplyMany,
  type MultiplyManyOptions,
  type Weight,
} from "./kernels/linear/multiply_many.ts";
export { crossEntropy, type CrossEntropyOptions } from "./kernels/loss/cross_entropy.ts";
export { distillation } from "./kernels/loss/distillation.ts";
export {
  linearCrossEntropy,
  type LinearCrossEntropyOptions,
} from "./kernels/loss/linear_cross_entropy.ts";
export { shiftLabels } from "./kernels/loss/shift_labels.ts";
export {
  batchNorm,
  type BatchNormOptions,
  type ChannelStatistics,
} from "./kernels/norm/batch_norm.ts";
export { layerNorm } from "./kernels/norm/layer_norm.ts";
export { rmsNorm } from "./kernels/norm/rms_norm.ts";
export { add, div, mul, sub } from "./kernels/pointwise/arithmetic.ts";
export { cast } from "./kernels/pointwise/cast.ts";
export { dropout } from "./kernels/pointwise/dropout.ts";
export { gelu } from "./kernels/pointwise/gelu.ts";
export { relu } from "./kernels/pointwise/relu.ts";
export { type ColumnChoice, columnChoice, pickColumns } from "./kernels/pointwise/pick_columns.ts";
export { reshape } from "./kernels/pointwise/reshape.ts";
export { scale } from "./kernels/pointwise/scale.ts";
export { siluGate } from "./kernels/pointwise/silu_gate.ts";
export { slice, type SliceOptions } from "./kernels/pointwise/slice.ts";
export { transpose } from "./kernels/pointwise/transpose.ts";
export { maxPool } from "./kernels/pool/max_pool.ts";
export {
  type AffineParameters,
  affineParameters,
  type AffineScheme,
  dequantizeAffine,
  type Levels,
  levelsOf,
  quantizeAffine,
  type Range,
} from "./kernels/quant/affine.ts";
export type { NestedScales } from "./kernels/quant/double_quant.ts";
export { fakeQuantize, type FakeQuantOptions } from "./kernels/quant/fake_quant.ts";
export {
  type FourBitBytes,
  fourBitFromBytes,
  type FourBitScales,
  FourBitTensor,
} from "./kernels/quant/four_bit.ts";
export { type FourBitOptions, quantizeFourBit } from "./kernels/quant/four_bit_quantize.ts";
export {
  type ExplainedGroup,
  type ExplainedNumber,
  type ExplainOptions,
  explainOverflow,
  explainQuantization,
  type Explanation,
  type OverflowingNumber,
} from "./kernels/quant/explain.ts";
export type { EncodeFloatOptions } from "./kernels/quant/float_format.ts";
export { decodeFp8, encodeFp8, type Fp8Type } from "./kernels/quant/fp8.ts";
export type { GroupGrid } from "./kernels/quant/group_grid.ts";
export { ggufBlocks, GgufBlockTensor } from "./kernels/quant/gguf_block.ts";
export type { GgufBlockType } from "./kernels/quant/gguf_types.ts";
export type { IntegerRange } from "./kernels/quant/integer_range.ts";
export {
  type IntegerOptions,
  IntegerTensor,
  type IntegerType,
  quantizeInteger,
} from "./kernels/quant/integer.ts";
export {
  type ModelSize,
  type NumberType,
  numberTypes,
  type RoundingExample,
} from "./kernels/quant/number_types.ts";
export { OutlierTensor } from "./kernels/quant/outlier_split.ts";
export { rotate, type Rotation } from "./kernels/quant/rotate.ts";
export { RotatedTensor } from "./kernels/quant/rotated_tensor.ts";
export type { QuantizedProductOptions, QuantizedTensor } from "./kernels/quant/quantized_tensor.ts";
export {
  type ActivationScheme,
  dequantizeRows,
  type QuantizedRows,
  quantizeRows,
} from "./kernels/quant/quantize_rows.ts";
export type { FourBitType } from "./kernels/quant/tables.ts";
export { max } from "./kernels/reduce/max.ts";
export { softmax } from "./kernels/reduce/softmax.ts";
export { mean, type ReduceOptions, sum } from "./kernels/reduce/sum.ts";
export { advance, type AdvanceOptions, type GenerationState } from "./kernels/sample/advance.ts";
export { sample, type SampleOptions } from "./kernels/sample/sample.ts";

// train/files and train/data: checkpoints, tokenizers, data sets
export {
  isFourBit,
  readFourBit,
  type StoredFourBit,
  storeFourBit,
} from "./train/files/bitsandbytes.ts";
export type { ModelConfig } from "./train/files/config.ts";
export type {
  DynamicRope,
  LinearRope,
  Llama3Rope,
  RopeConfig,
  RopeScaling,
  YarnRope,
} from "./train/files/rope_config.ts";
export {
  type GgufArray,
  GgufFile,
  type GgufScalar,
  type GgufValue,
  type RowOrder,
} from "./train/files/gguf.ts";
export { ggufTokenizer } from "./train/files/gguf_tokenizer.ts";
export {
  type GgufField,
  type GgufNumber,
  type GgufTensor,
  type GgufWriteType,
  writeGguf,
} from "./train/files/gguf_write.ts";
export { downloadModel, type DownloadOptions, type DownloadProgress } from "./train/files/hub.ts";
export {
  openCheckpoint,
  SafetensorsFile,
  type TensorData,
  type TensorEntry,
  type TensorSource,
  writeSafetensors,
} from "./train/files/safetensors.ts";
export {
  type Json,
  loadTokenizer,
  saveTokenizer,
  Tokenizer,
  type TokenizerConfigs,
} from "./train/files/tokenizer.ts";
export { type BpeOptions, type BpeTokenizerJson, trainBpe } from "./train/data/bpe.ts";
export { tokenizeChat, type TokenizeChatOptions, turnEnd } from "./train/data/chat.ts";
export {
  type ChatMessage,
  type ChatOptions,
  type Conversation,
  encodeChat,
  renderChat,
  type RenderChatOptions,
} from "./train/data/chat_template.ts";
export {
  type ChatFields,
  type Example,
  type ExampleFields,
  readJsonl,
  readText,
  type Sequence,
  tokenizeExamples,
  type TokenizeOptions,
  tokenizeText,
  tokenStream,
} from "./train/data/dataset.ts";
export type { Dataset } from "./train/data/batches.ts";
export { chunk, pack, type PackedBatch, type PackOptions } from "./train/data/packing.ts";

// train/nn and train/models: the parts of a model, and models
export type { Adapter } from "./train/nn/adapter.ts";
export { BatchNorm, type BatchNormParts } from "./train/nn/batch_norm.ts";
export { Conv2d, type Moves } from "./train/nn/conv2d.ts";
export {
  type Branch,
  Linear,
  LinearLayer,
  plainWeight,
  QuantizedLinear,
} from "./train/nn/linear.ts";
export { FakeQuantLinear, InputQuantizedLinear } from "./train/nn/fake_quant_linear.ts";
export { type InputQuantizer, type Share, WeightQuantizer } from "./train/nn/fake_quantizer.ts";
export { QuantizedActivationLinear } from "./train/nn/quantized_activations.ts";
export { Module, type Named } from "./train/nn/module.ts";
export { TransposedLinear } from "./train/nn/transposed_linear.ts";
export {
  type ForwardOptions,
  type HeadOperands,
  type KeyValueCache,
  LanguageModel,
  type LossOptions,
  type ParameterCount,
  type Scaling,
} from "./train/models/language_model.ts";
export type { Weights } from "./train/models/architecture.ts";
export { parseConfig } from "./train/models/architectures.ts";
export { saveGguf, type SaveGgufOptions } from "./train/models/gguf_export.ts";
export { Gpt2 } from "./train/models/gpt2.ts";
export { Llama, type LlamaConfig } from "./train/models/llama.ts";
export {
  loadModel,
  type LoadOptions,
  type QuantizationScheme,
  randomModel,
  type RandomModelOptions,
} from "./train/models/load.ts";
export { ropeTable, type RopeTableOptions } from "./train/models/rope_table.ts";
export type { Checkpointing, CheckpointingOptions } from "./train/models/run_blocks.ts";
export { saveModel, type SaveModelOptions } from "./train/models/save.ts";

// train/optim and the trainer
export { loadCheckpoint, saveCheckpoint } from "./train/checkpoint.ts";
export { type AdamWOptions } from "./train/optim/adamw.ts";
export { scheduleFactor, type ScheduleKind, type ScheduleOptions } from "./train/optim/schedule.ts";
export {
  train,
  Trainer,
  type TrainMemory,
  type TrainOptions,
  type TrainProgress,
} from "./train/loop.ts";

// train/adapters: small trained parts beside a frozen model, in PEFT's format
export { DoraBranch, type DoraParts } from "./train/adapters/dora_branch.ts";
export { saveGgufAdapter } from "./train/adapters/gguf_adapter.ts";
export { addLora, Lora, mergeAdapter } from "./train/adapters/lora.ts";
export { type BranchDropout, LoraBranch } from "./train/adapters/lora_branch.ts";
export type {
  CompleteLora,
  DecomposedLoraOptions,
  LoraOptions,
} from "./train/adapters/lora_options.ts";
export { mergeAdapterFourBit, type MergeError } from "./train/adapters/merge_four_bit.ts";
export { loadAdapter, saveAdapter, type SaveAdapterOptions } from "./train/adapters/peft.ts";

// train/quant: models in few bits, and ranges of numbers, chosen by looking at them
export {
  type ActivationKind,
  type ActivationRanges,
  calibrateActivations,
  type CalibrateOptions,
  type LayerRange,
  type Smoothing,
} from "./train/quant/activation_ranges.ts";
export { awqLayers, type AwqOptions, type AwqResult } from "./train/quant/awq.ts";
export {
  type CompareOptions,
  compareSchemes,
  type SchemeResult,
} from "./train/eval/compare_schemes.ts";
export { SCHEME_NAMES, type SchemeName, type SchemeNeeds } from "./train/eval/named_schemes.ts";
export {
  BatchNormQat,
  type ConvertedLayer,
  type FoldableLayer,
  foldBatchNorm,
} from "./train/quant/batch_norm.ts";
export { type FoldedGains, foldNormGains } from "./train/quant/norm_gains.ts";
export {
  type RoundedWeights,
  roundWeights,
  type WeightRounding,
} from "./train/quant/round_weights.ts";
export type { LayerError, LayerErrors } from "./train/quant/layer_errors.ts";
export type { CalibrationText } from "./train/quant/calibration.ts";
export { type GptqBits, gptqLayers, type GptqOptions } from "./train/quant/gptq_layers.ts";
export { splitLayers, type SplitOptions } from "./train/quant/outlier_layers.ts";
export {
  type ChoiceUnit,
  type ChooseOptions,
  chooseSchemes,
  type Chosen,
  type SchemeChoice,
} from "./train/quant/choose_bits.ts";
export {
  parseScheme,
  type PolicyRule,
  type QuantizationPolicy,
  quantizeByPolicy,
  readPolicy,
  savePolicy,
  schemesOf,
  showScheme,
} from "./train/quant/policy.ts";
export type { InputRounding } from "./train/nn/input_rounding.ts";
export { prepareQat, Qat } from "./train/quant/qat.ts";
export { convertQat } from "./train/quant/qat_convert.ts";
export type {
  QatActivationOptions,
  QatOptions,
  QatWeightOptions,
} from "./train/quant/qat_options.ts";
export type {
  ChannelRange,
  InputReport,
  ObserverError,
  OutlierChannel,
  RoundingError,
} from "./train/quant/input_errors.ts";
export { observerReport } from "./train/quant/observer_report.ts";
export { loadRanges, saveRanges } from "./train/quant/range_file.ts";
export type { CalibrationObserver } from "./train/quant/input_statistics.ts";
export {
  type ActivationMode,
  quantizeActivations,
  type QuantizeActivationsOptions,
  type QuantizedActivations,
  readsActivation,
} from "./train/quant/quantize_activations.ts";
export { rotateLayers, type RotateOptions } from "./train/quant/rotate_layers.ts";
export {
  type SmoothedScaling,
  smoothingFactors,
  type SmoothingPlaces,
} from "./train/quant/smooth_quant.ts";
export {
  quantizeLayers,
  ReplacedLayers,
  type SplitScheme,
  type UniformScheme,
  type WeightScheme,
} from "./train/quant/weight_only.ts";
export {
  type MemoryPlan,
  type MemoryPlanOptions,
  planMemory,
  type SchemeMemory,
} from "./train/quant/memory_plan.ts";
export { describeWeights, type WeightShape } from "./train/quant/weight_shape.ts";
export { schemeBytes } from "./train/quant/scheme_size.ts";
export { createObserver, type Observer, type ObserverOptions } from "./train/quant/observers.ts";

// train/eval: what a model can do
export { type Accuracy, type AccuracyOptions, evaluateAccuracy } from "./train/eval/accuracy.ts";
export { majorityBaseline, naiveBayesBaseline } from "./train/eval/baselines.ts";
export {
  evaluatePerplexity,
  type Perplexity,
  type PerplexityOptions,
} from "./train/eval/perplexity.ts";
export type { EvaluationProgress } from "./train/eval/score.ts";
export {
  chooseBits,
  type ChooseBitsOptions,
  measurePolicies,
  measureSensitivity,
  type ProbeOptions,
  type SchemeShift,
  type Sensitivity,
  type SensitivityOptions,
  type Shift,
  type UnitSensitivity,
} from "./train/eval/sensitivity.ts";
export { generate, type GenerateOptions, generateTokens } from "./train/eval/generate.ts";

// train/digits: batch normalization near quantization, on real handwritten digits
export {
  compareDigits,
  type CompareDigitsOptions,
  type DigitComparison,
  type DigitResult,
  type DigitScheme,
} from "./train/digits/compare.ts";
export { type DigitData, type DigitSet, loadDigits } from "./train/digits/data.ts";
export type { ApartAndFolded, FoldingResult } from "./train/digits/folding.ts";
export type { DigitKind } from "./train/digits/network.ts";
