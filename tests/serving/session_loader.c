/* Calls one signature of a SavedModel through TensorFlow's C API, as a program without Python does.
 *
 * Called as `session_loader MODEL INPUT OUTPUT... < REQUESTS > ANSWERS`. INPUT and OUTPUT are names
 * of tensors, such as `serving_default_image_bytes:0`, which the signature lists. Each request is
 * one tensor, its answer one for each OUTPUT, in the machine's byte order: int32 type as in TF_DataType,
 * int32 number of axes, int64 length of each, then the elements; each string is its int64 length and
 * its bytes. Errors are one line on stderr, with the code of TF_Status, and exit status 1.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

enum { MOST_OUTPUTS = 32, MOST_AXES = 8 };

static void fail(int code, const char* message) {
  fprintf(stderr, "%d: ", code);
  for (; *message; ++message) fputc(*message == '\n' ? ' ' : *message, stderr);
  fputc('\n', stderr);
  exit(1);
}

static void require_ok(TF_Status* status) {
  if (TF_GetCode(status) != TF_OK) fail((int)TF_GetCode(status), TF_Message(status));
}

static void read_exactly(void* target, size_t size) {
  if (fread(target, 1, size, stdin) != size) fail(TF_DATA_LOSS, "the request is too short");
}

static void write_exactly(const void* source, size_t size) {
  if (fwrite(source, 1, size, stdout) != size) fail(TF_DATA_LOSS, "the answer was not written");
}

static TF_Tensor* read_tensor(void) {
  int32_t type, axes;
  int64_t shape[MOST_AXES], count = 1;
  read_exactly(&type, sizeof type);
  read_exactly(&axes, sizeof axes);
  if (axes < 0 || axes > MOST_AXES) fail(TF_INVALID_ARGUMENT, "too many axes");
  read_exactly(shape, (size_t)axes * sizeof *shape);
  for (int axis = 0; axis < axes; ++axis) count *= shape[axis];
  /* For a string this is the size of a TF_TString, which holds short texts itself. */
  size_t size = (size_t)count * TF_DataTypeSize((TF_DataType)type);
  if (type == TF_STRING) size = (size_t)count * sizeof(TF_TString);
  TF_Tensor* tensor = TF_AllocateTensor((TF_DataType)type, shape, axes, size);
  if (type != TF_STRING) {
    read_exactly(TF_TensorData(tensor), size);
    return tensor;
  }
  TF_TString* texts = TF_TensorData(tensor);
  for (int64_t at = 0; at < count; ++at) {
    int64_t length;
    read_exactly(&length, sizeof length);
    char* text = malloc((size_t)length + 1);
    if (text == NULL) fail(TF_RESOURCE_EXHAUSTED, "no memory");
    read_exactly(text, (size_t)length);
    TF_StringInit(&texts[at]);
    TF_StringCopy(&texts[at], text, (size_t)length);
    free(text);
  }
  return tensor;
}

static void write_tensor(const TF_Tensor* tensor) {
  int32_t type = (int32_t)TF_TensorType(tensor), axes = TF_NumDims(tensor);
  write_exactly(&type, sizeof type);
  write_exactly(&axes, sizeof axes);
  for (int axis = 0; axis < axes; ++axis) {
    int64_t length = TF_Dim(tensor, axis);
    write_exactly(&length, sizeof length);
  }
  if (type != TF_STRING) {
    write_exactly(TF_TensorData(tensor), TF_TensorByteSize(tensor));
    return;
  }
  const TF_TString* texts = TF_TensorData(tensor);
  for (int64_t at = 0; at < TF_TensorElementCount(tensor); ++at) {
    int64_t length = (int64_t)TF_StringGetSize(&texts[at]);
    write_exactly(&length, sizeof length);
    write_exactly(TF_StringGetDataPointer(&texts[at]), (size_t)length);
  }
}

static int has_request(void) {
  int next = getc(stdin);
  return next != EOF && ungetc(next, stdin) == next;
}

/* Finds a tensor by its name in the graph, `operation:output`. */
static TF_Output find(TF_Graph* graph, const char* name) {
  const char* colon = strrchr(name, ':');
  char operation[512];
  size_t length = colon ? (size_t)(colon - name) : strlen(name);
  if (length >= sizeof operation) fail(TF_INVALID_ARGUMENT, "the name of a tensor is too long");
  memcpy(operation, name, length);
  operation[length] = '\0';
  TF_Output found = {TF_GraphOperationByName(graph, operation), colon ? atoi(colon + 1) : 0};
  if (found.oper == NULL) fail(TF_NOT_FOUND, name);
  return found;
}

int main(int argc, char** argv) {
  if (argc < 4 || argc - 3 > MOST_OUTPUTS) fail(TF_INVALID_ARGUMENT, "MODEL INPUT OUTPUT...");
  const char* tags[] = {"serve"};
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  TF_Session* session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  require_ok(status);

  TF_Output inputs[] = {find(graph, argv[2])}, outputs[MOST_OUTPUTS];
  int count = argc - 3;
  for (int at = 0; at < count; ++at) outputs[at] = find(graph, argv[3 + at]);
  while (has_request()) {
    TF_Tensor *request[] = {read_tensor()}, *answers[MOST_OUTPUTS] = {NULL};
    TF_SessionRun(session, NULL, inputs, request, 1, outputs, answers, count, NULL, 0, NULL,
                  status);
    require_ok(status);
    for (int at = 0; at < count; ++at) {
      write_tensor(answers[at]);
      TF_DeleteTensor(answers[at]);
    }
    TF_DeleteTensor(request[0]);
  }
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return fflush(stdout) == 0 ? 0 : 1;
}
