// Compiles SPIR-V files for the first OpenCL device, or runs one there.
//
//   judge compile FILE.spv...     what the driver prints of each follows a line "@ FILE.spv"
//   judge run FILE.spv GX,GY,GZ LX,LY,LZ BUFFER...    BUFFER: a file to read, or +BYTES:file to
//   write
#define CL_TARGET_OPENCL_VERSION 300
#include <CL/cl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static cl_device_id device;
static cl_context context;

static void check(cl_int error, const char* what) {
  if (error != CL_SUCCESS) {
    fprintf(stderr, "%s: OpenCL error %d\n", what, error);
    exit(1);
  }
}

static char* read_file(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (!file) {
    perror(path);
    exit(1);
  }
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  char* bytes = malloc(*size + 1);
  if (fread(bytes, 1, *size, file) != *size) exit(1);
  fclose(file);
  return bytes;
}

// The kernel of a file; NULL, with the compiler's words printed, where it is refused.
static cl_kernel build(const char* path) {
  size_t size;
  cl_int error;
  char *text = read_file(path, &size), log[8192] = "";
  cl_program program = clCreateProgramWithIL(context, text, size, &error);
  free(text);
  if (error == CL_SUCCESS) error = clBuildProgram(program, 1, &device, "", NULL, NULL);
  if (error != CL_SUCCESS) {
    clGetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, sizeof log, log, NULL);
    fprintf(stderr, "refused %d %s\n", error, log);
    return NULL;
  }
  cl_kernel kernel = clCreateKernel(program, "judged", &error);
  if (error != CL_SUCCESS) fprintf(stderr, "refused %d\n", error);
  return error == CL_SUCCESS ? kernel : NULL;
}

static void compile(const char* path) {
  fprintf(stderr, "@ %s\n", path);
  cl_kernel kernel = build(path);
  if (!kernel) return;
  size_t threads = 0;
  cl_ulong own = 0, shared = 0;
  clGetKernelWorkGroupInfo(kernel, device, CL_KERNEL_WORK_GROUP_SIZE, sizeof threads, &threads,
                           NULL);
  clGetKernelWorkGroupInfo(kernel, device, CL_KERNEL_PRIVATE_MEM_SIZE, sizeof own, &own, NULL);
  clGetKernelWorkGroupInfo(kernel, device, CL_KERNEL_LOCAL_MEM_SIZE, sizeof shared, &shared, NULL);
  fprintf(stderr, "\nallows %zu threads, %lu private, %lu shared\n", threads, own, shared);
  clReleaseKernel(kernel);
}

static void run(int count, char** arguments) {
  size_t grid[3], group[3];
  sscanf(arguments[1], "%zu,%zu,%zu", &grid[0], &grid[1], &grid[2]);
  sscanf(arguments[2], "%zu,%zu,%zu", &group[0], &group[1], &group[2]);
  cl_kernel kernel = build(arguments[0]);
  if (!kernel) exit(1);
  cl_int error;
  cl_command_queue queue = clCreateCommandQueueWithProperties(context, device, NULL, &error);
  check(error, "queue");
  cl_mem buffers[64];
  size_t sizes[64];
  for (int i = 3; i < count && i < 67; ++i) {
    char* bytes = NULL;
    if (arguments[i][0] == '+') {
      sizes[i - 3] = strtoull(arguments[i] + 1, NULL, 10);
    } else {
      bytes = read_file(arguments[i], &sizes[i - 3]);
    }
    cl_mem_flags flags = CL_MEM_READ_WRITE | (bytes ? CL_MEM_COPY_HOST_PTR : 0);
    buffers[i - 3] = clCreateBuffer(context, flags, sizes[i - 3], bytes, &error);
    check(error, "buffer");
    check(clSetKernelArg(kernel, (cl_uint)(i - 3), sizeof(cl_mem), &buffers[i - 3]), "argument");
    free(bytes);
  }
  check(clEnqueueNDRangeKernel(queue, kernel, 3, NULL, grid, group, 0, NULL, NULL), "launch");
  for (int i = 3; i < count && i < 67; ++i) {
    if (arguments[i][0] != '+') continue;
    char* bytes = malloc(sizes[i - 3]);
    check(
        clEnqueueReadBuffer(queue, buffers[i - 3], CL_TRUE, 0, sizes[i - 3], bytes, 0, NULL, NULL),
        "read");
    FILE* file = fopen(strchr(arguments[i], ':') + 1, "wb");
    if (!file || fwrite(bytes, 1, sizes[i - 3], file) != sizes[i - 3]) exit(1);
    fclose(file);
    free(bytes);
  }
}

int main(int count, char** arguments) {
  cl_platform_id platform;
  cl_int error;
  if (count < 3) return 2;
  check(clGetPlatformIDs(1, &platform, NULL), "no platform");
  check(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL), "no device");
  context = clCreateContext(NULL, 1, &device, NULL, NULL, &error);
  check(error, "context");
  char name[256] = "";
  clGetDeviceInfo(device, CL_DEVICE_NAME, sizeof name, name, NULL);
  fprintf(stderr, "device %s\n", name);
  if (strcmp(arguments[1], "run") == 0) {
    run(count - 2, arguments + 2);
  } else {
    for (int i = 2; i < count; ++i) compile(arguments[i]);
  }
  return 0;
}
