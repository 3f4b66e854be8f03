/*
 * A memory hog with a fixed job: fills some memory, then touches as many pages of it again, at random, once
 * for each round.
 * Prints how long the job took and how long tasks of this guest waited for memory meanwhile, in microseconds.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE_BYTES 4096
#define NOISE_WORDS 128 /* so much of each page, a quarter, cannot be compressed */

static uint64_t noises[2 * NOISE_WORDS];

static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t stalled_us(void)
{
    unsigned long long total = 0;
    FILE *pressure = fopen("/proc/pressure/memory", "r");
    if (!pressure || fscanf(pressure, "some avg10=%*f avg60=%*f avg300=%*f total=%llu", &total) != 1)
        exit(1);
    fclose(pressure);
    return total;
}

static uint64_t noise(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

int main(int count, char **words)
{
    if (count != 4)
        return 2;
    size_t pages = (strtoul(words[1], NULL, 10) << 20) / PAGE_BYTES, rounds = strtoul(words[2], NULL, 10);
    uint64_t began_us = now_us(), before_us = stalled_us(), most_us = strtoul(words[3], NULL, 10) * 1000000;
    uint64_t(*memory)[PAGE_BYTES / sizeof(uint64_t)] =
        mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 1;
    for (size_t i = 0; i < sizeof noises / sizeof *noises; i++)
        noises[i] = noise();
    for (size_t page = 0; page < pages && now_us() - began_us < most_us; page++)
        memcpy(memory[page], &noises[page % NOISE_WORDS], NOISE_WORDS * sizeof *noises);
    for (size_t touch = 0; touch < pages * rounds && now_us() - began_us < most_us; touch++)
        memory[noise() % pages][0] += touch;
    printf("%llu %llu\n", (unsigned long long)(stalled_us() - before_us),
           (unsigned long long)(now_us() - began_us));
    return 0;
}
